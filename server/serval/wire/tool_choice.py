"""The field `tool_choice`: its types, and the check against the declared tools."""

from collections.abc import Collection
from typing import Annotated

from msgspec import Meta, Struct

from serval.errors import InvalidRequestError
from serval.wire.annotations import one_of

MAX_TOOLS = 128


class NamedFunction(Struct):
    """The function that a tool choice names."""

    name: str


class AllowedTool(Struct):
    """A declared tool, by its name."""

    type: Annotated[str, one_of("function")]
    function: NamedFunction | None = None


class AllowedTools(Struct):
    """Some of the declared tools; `mode` is the tool choice among them."""

    mode: Annotated[str, one_of("auto", "required")]
    tools: Annotated[list[AllowedTool], Meta(max_length=MAX_TOOLS, extra_json_schema={"minItems": 1})]


class NamedToolChoice(Struct, omit_defaults=True):
    """One function, `{"type": "function", "function": {"name": ...}}`, or some of the tools.

    The latter are `{"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}`. The model
    reads all declared tools, so that requests with other choices find this prompt in the prefix cache.
    """

    type: Annotated[str, one_of("function", "allowed_tools")]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


def check_tool_choice(choice: str | NamedToolChoice, names: Collection[str]) -> None:
    """Check a choice among tools of these `names`. Raises `InvalidRequestError` naming the field at fault."""
    if isinstance(choice, str) and choice not in ("none", "auto", "required", "any"):
        raise InvalidRequestError(
            f"tool_choice is {choice!r}; it must be 'none', 'auto', 'required', 'any' (the same) or an object"
            " that names functions.",
            param="tool_choice",
        )
    if not names and choice not in ("none", "auto"):
        raise InvalidRequestError(
            "tool_choice asks for a tool call, but there are no tools.", param="tool_choice"
        )
    if isinstance(choice, str):
        return
    for name, path in _names_in(choice):
        if name not in names:
            raise InvalidRequestError(
                f"tool_choice names the function {name!r}, which is not among the tools: {sorted(names)}.",
                param=f"{path}.function.name",
            )


def _names_in(choice: NamedToolChoice) -> list[tuple[str, str]]:
    """Return the names of functions in the choice, each with the path of the object that holds it."""
    if choice.type == "function" and choice.function is not None:
        return [(choice.function.name, "tool_choice")]
    if choice.type != "allowed_tools" or choice.allowed_tools is None:
        known = choice.type in ("function", "allowed_tools")
        raise InvalidRequestError(
            f"tool_choice has type {choice.type!r}{f' and no {choice.type}' if known else ''}; an object must"
            " be of the form {'type': 'function', 'function': {'name': ...}} or {'type': 'allowed_tools',"
            " 'allowed_tools': {'mode': ..., 'tools': [...]}}.",
            param=f"tool_choice.{choice.type if known else 'type'}",
        )
    allowed = choice.allowed_tools
    if allowed.mode not in ("auto", "required"):
        raise InvalidRequestError(
            f"tool_choice.allowed_tools.mode is {allowed.mode!r}; it must be 'auto' or 'required'.",
            param="tool_choice.allowed_tools.mode",
        )
    if not allowed.tools:
        raise InvalidRequestError(
            "tool_choice.allowed_tools.tools is empty; name a tool, or send tool_choice 'none'.",
            param="tool_choice.allowed_tools.tools",
        )
    named = []
    for index, tool in enumerate(allowed.tools):
        path = f"tool_choice.allowed_tools.tools[{index}]"
        if tool.type != "function" or tool.function is None:
            raise InvalidRequestError(
                f"{path} must be of the form {{'type': 'function', 'function': {{'name': ...}}}}.", param=path
            )
        named.append((tool.function.name, path))
    return named
