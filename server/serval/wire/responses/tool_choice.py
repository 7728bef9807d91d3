"""The field `tool_choice` of the Responses API as that of Chat Completions."""

from collections.abc import Mapping
from typing import Final

from serval.errors import InvalidRequestError
from serval.wire.responses.request import ToolChoice
from serval.wire.responses.tools import LOCAL_SHELL, TOOL_SEARCH, CalledTool, qualified_name
from serval.wire.tool_choice import AllowedTool, AllowedTools, NamedFunction, NamedToolChoice

_WORDS: Final = ("none", "auto", "required")
# Types that name a tool of this name.
_OWN_NAMES: Final = {"tool_search": TOOL_SEARCH, "local_shell": LOCAL_SHELL}
_SERVED: Final = ("function", "custom", *_OWN_NAMES)


def chat_tool_choice(
    choice: str | ToolChoice | None, called: Mapping[str, CalledTool]
) -> str | NamedToolChoice | None:
    """Convert the choice among the tools `called`. Raises `InvalidRequestError` naming the field at fault."""
    if choice is None:
        return None
    if isinstance(choice, str):
        return _word(choice, called)
    if choice.type == "allowed_tools":
        return _allowed(choice, called)
    name = _name_of(choice, "tool_choice", called)
    return NamedToolChoice(type="function", function=NamedFunction(name=name))


def _word(choice: str, called: Mapping[str, CalledTool]) -> str:
    if choice not in _WORDS:
        raise InvalidRequestError(
            f"tool_choice is {choice!r}; it must be 'none', 'auto', 'required' or an object that names"
            " tools.",
            param="tool_choice",
        )
    if choice == "required" and not called:
        raise InvalidRequestError(
            "tool_choice asks for a tool call, but there are no tools that the client runs.",
            param="tool_choice",
        )
    return choice


def _allowed(choice: ToolChoice, called: Mapping[str, CalledTool]) -> NamedToolChoice:
    if choice.mode not in ("auto", "required"):
        raise InvalidRequestError(
            f"tool_choice.mode is {choice.mode!r}; it must be 'auto' or 'required'.", param="tool_choice.mode"
        )
    if not choice.tools:
        raise InvalidRequestError(
            "tool_choice.tools is empty; name a tool, or send tool_choice 'none'.", param="tool_choice.tools"
        )
    # Tools that only OpenAI's servers run are left out, as they are among the tools.
    named = [(index, tool) for index, tool in enumerate(choice.tools) if tool.type in _SERVED]
    named = named or [(0, choice.tools[0])]
    names = [_name_of(tool, f"tool_choice.tools[{index}]", called) for index, tool in named]
    tools = [AllowedTool(type="function", function=NamedFunction(name=name)) for name in names]
    return NamedToolChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=choice.mode, tools=tools))


def _name_of(choice: ToolChoice, path: str, called: Mapping[str, CalledTool]) -> str:
    """Return the name by which the model knows the tool that the object at `path` names."""
    if choice.type not in _SERVED:
        raise InvalidRequestError(
            f"{path} has type {choice.type!r}, a tool that this server does not run; it can name tools of the"
            f" types {', '.join(map(repr, _SERVED))}.",
            param=f"{path}.type",
            code="unsupported_value",
        )
    name = _OWN_NAMES.get(choice.type) or qualified_name(choice.namespace, choice.name or "")
    if name not in called:
        raise InvalidRequestError(
            f"{path} names the tool {name!r}, which is not among the tools: {sorted(called)}.",
            param=f"{path}.name",
        )
    return name
