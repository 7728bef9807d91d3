"""Tools and tool choice of the Messages API as those of Chat Completions."""

from collections.abc import Collection, Sequence
from typing import Final

from msgspec import Struct

from serval.errors import InvalidRequestError
from serval.wire.chat_request import FunctionDeclaration, Tool, check_schema
from serval.wire.decode import missing_parameter
from serval.wire.messages.request import MessagesToolChoice, ToolDeclaration
from serval.wire.tool_choice import NamedFunction, NamedToolChoice

# A search that the server would run. Without one here, nothing would ever load the deferred tools.
_SERVER_SEARCH: Final = "tool_search_tool_"
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


class Tools(Struct, frozen=True):
    """Tools declared at the front of the prompt, and those that are declared where they are loaded."""

    declared: Sequence[Tool]
    deferred: Sequence[Tool]

    @property
    def all(self) -> list[Tool]:
        """All tools that the model may call."""
        return [*self.declared, *self.deferred]


def chat_tools(tools: Sequence[ToolDeclaration] | None) -> Tools:
    """Convert the client's tools; those that a server would run are left out.

    Raises `InvalidRequestError` naming the field at fault.
    """
    given = tools or ()
    may_defer = not any((tool.type or "").startswith(_SERVER_SEARCH) for tool in given)
    declared: list[Tool] = []
    deferred: list[Tool] = []
    names: set[str] = set()
    for index, tool in enumerate(given):
        if tool.type not in (None, "custom"):
            continue
        function = _function(tool, f"tools[{index}]")
        if function.name in names:
            raise InvalidRequestError(
                f"tools[{index}] is the second tool named {function.name!r}; names must differ.",
                param=f"tools[{index}].name",
            )
        names.add(function.name)
        made = Tool(type="function", function=function)
        (deferred if tool.defer_loading and may_defer else declared).append(made)
    return Tools(declared, deferred)


def _function(tool: ToolDeclaration, path: str) -> FunctionDeclaration:
    if tool.name is None:
        raise missing_parameter(f"{path}.name")
    check_schema(tool.input_schema, f"{path}.input_schema")
    return FunctionDeclaration(
        name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
    )


def chat_tool_choice(
    choice: MessagesToolChoice | None, names: Collection[str]
) -> str | NamedToolChoice | None:
    """Convert the choice among tools of these `names`. Raises `InvalidRequestError` naming the field."""
    if choice is None:
        return None
    if choice.type not in (*_CHOICES, "tool"):
        raise InvalidRequestError(
            f"tool_choice.type is {choice.type!r}; it must be 'auto', 'any', 'tool' or 'none'.",
            param="tool_choice.type",
        )
    if choice.type in ("any", "tool") and not names:
        raise InvalidRequestError(
            "tool_choice asks for a call, but there are no tools that the client runs; tools of a server are"
            " not served here.",
            param="tool_choice",
        )
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if choice.name is None:
        raise missing_parameter("tool_choice.name")
    if choice.name not in names:
        raise InvalidRequestError(
            f"tool_choice names the tool {choice.name!r}, which is not among the tools: {sorted(names)}.",
            param="tool_choice.name",
        )
    return NamedToolChoice(type="function", function=NamedFunction(name=choice.name))
