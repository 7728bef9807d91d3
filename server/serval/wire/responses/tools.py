"""Tools of the Responses API as functions of Chat Completions, and the way back from a function's name.

A function in a namespace is declared as `namespace.name`: names cannot hold a dot, so no two differ only in
where it stands. A custom tool is a function with one text argument, `input`. Tools that only OpenAI's servers
run, such as `web_search`, are left out: agents declare them whether a server has them or not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from serval.errors import InvalidRequestError
from serval.grammar.compile_cost import Budget
from serval.grammar.input_grammar import CUSTOM_INPUT, input_node
from serval.grammar.lark_grammar import NotEnforceableError
from serval.schema.error import SchemaError
from serval.wire.chat_request import FunctionDeclaration, Tool, ToolName, check_schema
from serval.wire.decode import decode_json, missing_parameter
from serval.wire.responses.request import MAX_TOOLS

TOOL_SEARCH: Final = "tool_search"
LOCAL_SHELL: Final = "local_shell"
Kind = Literal["function", "custom", "tool_search", "local_shell"]


class FunctionTool(Struct, omit_defaults=True):
    """A function. `defer_loading`: not declared to the model before a search of the client loads it."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class CustomFormat(Struct, omit_defaults=True):
    """Form of a custom tool's input: any text, or one that follows a grammar."""

    type: str
    syntax: str | None = None
    definition: str | None = None


class CustomTool(Struct, omit_defaults=True):
    """A tool whose one argument is a text."""

    name: ToolName
    description: str | None = None
    format: CustomFormat | None = None
    defer_loading: bool | None = None


class Namespace(Struct, omit_defaults=True):
    """Functions and custom tools under a common name."""

    name: ToolName
    tools: Annotated[list[msgspec.Raw], Meta(max_length=MAX_TOOLS)]
    description: str | None = None


class ToolSearch(Struct, omit_defaults=True):
    """A search for tools. With `execution` "client" the client runs it, and the model may call it."""

    execution: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None


class LocalShell(Struct):
    """The client's shell, with parameters of our own."""


class CalledTool(Struct, frozen=True):
    """A called function as the client knows it."""

    kind: Kind
    name: str
    namespace: str | None = None


class ToolSet(Struct, frozen=True):
    """Functions declared at the front of the prompt, the deferred ones, and all by their names there."""

    declared: list[Tool] = field(default_factory=list)
    deferred: list[Tool] = field(default_factory=list)
    called: dict[str, CalledTool] = field(default_factory=dict)
    # Work that checking their grammars may still take.
    budget: Budget = field(default_factory=Budget)


class LoadedTools(Struct, frozen=True):
    """The tools of a request, and those that its searches have loaded.

    A tool that is loaded takes the place of one that the request declares as deferred.
    """

    tools: ToolSet
    # Where the deferred tools stand in their list, and the names of those that are declared.
    _places: dict[str, int] = field(default_factory=dict)
    _declared: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._places.update((name, place) for place, name in enumerate(_names(self.tools.deferred)))
        self._declared.update(_names(self.tools.declared))

    def add(self, raw_tools: Sequence[msgspec.Raw], path: str) -> list[Tool]:
        """Decode loaded tools, and return those that are declared where they were loaded.

        Raises `InvalidRequestError` with the path of the field at fault.
        """
        loaded = []
        for found, _ in _functions(raw_tools, path, self.tools.budget):
            tool = Tool(type="function", function=found.function)
            loaded.append(tool)
            name = found.function.name
            if name in self._declared:
                continue
            self.tools.called[name] = found.called
            place = self._places.setdefault(name, len(self._places))
            self.tools.deferred[place : place + 1] = [tool]
            if len(self.tools.called) > MAX_TOOLS:
                raise InvalidRequestError(
                    f"With those at {path}, the conversation has more than {MAX_TOOLS} tools.", param=path
                )
        return loaded


def _names(tools: Iterable[Tool]) -> list[str]:
    return [tool.function.name for tool in tools if tool.function is not None]


class _Found(Struct, frozen=True):
    function: FunctionDeclaration
    called: CalledTool
    deferred: bool = False


TOOL_TYPES: Final[Mapping[str, type[Struct]]] = {
    "function": FunctionTool,
    "custom": CustomTool,
    "namespace": Namespace,
    "tool_search": ToolSearch,
    "local_shell": LocalShell,
}


class _Head(Struct):
    type: str


_head_decoder: "msgspec.json.Decoder[_Head]" = msgspec.json.Decoder(_Head)
_function_decoder: "msgspec.json.Decoder[FunctionTool]" = msgspec.json.Decoder(FunctionTool)
_custom_decoder: "msgspec.json.Decoder[CustomTool]" = msgspec.json.Decoder(CustomTool)
_namespace_decoder: "msgspec.json.Decoder[Namespace]" = msgspec.json.Decoder(Namespace)
_search_decoder: "msgspec.json.Decoder[ToolSearch]" = msgspec.json.Decoder(ToolSearch)

_SHELL_PARAMETERS: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "command": {"type": "array", "items": {"type": "string"}, "description": "Program and arguments."},
        "working_directory": {"type": "string"},
        "timeout_ms": {"type": "integer"},
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["command"],
}


def qualified_name(namespace: str | None, name: str) -> str:
    """Return the name under which the model knows a tool."""
    return f"{namespace}.{name}" if namespace else name


def chat_tools(raw_tools: Sequence[msgspec.Raw]) -> ToolSet:
    """Decode the tools and convert them. Raises `InvalidRequestError` with the path of the field at fault."""
    made = ToolSet()
    found = list(_functions(raw_tools, "tools", made.budget))
    if len(found) > MAX_TOOLS:
        raise InvalidRequestError(
            f"'tools' has {len(found)} tools with those in namespaces; at most {MAX_TOOLS} are allowed.",
            param="tools",
        )
    # Without a search of the client's, nothing would ever load a deferred tool.
    may_defer = any(each.called.kind == "tool_search" for each, _ in found)
    for each, path in found:
        name = each.function.name
        if name in made.called:
            raise InvalidRequestError(
                f"{path} is the second tool named {name!r}; names must differ.", param=f"{path}.name"
            )
        made.called[name] = each.called
        tools = made.deferred if each.deferred and may_defer else made.declared
        tools.append(Tool(type="function", function=each.function))
    return made


def _functions(
    raw_tools: Sequence[msgspec.Raw], path: str, budget: Budget, namespace: str | None = None
) -> Iterator[tuple[_Found, str]]:
    """Return the functions that the tools at `path` become, each with its path."""
    for index, raw in enumerate(raw_tools):
        below = f"{path}[{index}]"
        kind = decode_json(_head_decoder, raw, below=below).type
        if kind == "namespace" and namespace is None:
            group = decode_json(_namespace_decoder, raw, below=below)
            yield from _functions(group.tools, f"{below}.tools", budget, group.name)
            continue
        if kind == "custom":
            custom = decode_json(_custom_decoder, raw, below=below)
            yield _custom_tool(custom, below, budget, namespace), below
            continue
        found = _function(kind, raw, below, namespace)
        if found is not None:
            yield found, below


def _function(kind: str, raw: msgspec.Raw, path: str, namespace: str | None) -> _Found | None:
    if kind == "function":
        tool = decode_json(_function_decoder, raw, below=path)
        check_schema(tool.parameters, f"{path}.parameters")
        function = FunctionDeclaration(
            name=qualified_name(namespace, tool.name),
            description=tool.description,
            parameters=tool.parameters,
            strict=tool.strict,
        )
        return _Found(function, CalledTool("function", tool.name, namespace), bool(tool.defer_loading))
    if kind == "tool_search":
        search = decode_json(_search_decoder, raw, below=path)
        if search.execution != "client":
            return None
        check_schema(search.parameters, f"{path}.parameters")
        function = FunctionDeclaration(
            name=TOOL_SEARCH, description=search.description, parameters=search.parameters
        )
        return _Found(function, CalledTool("tool_search", TOOL_SEARCH))
    if kind == "local_shell":
        function = FunctionDeclaration(
            name=LOCAL_SHELL,
            description="Run a command in the user's shell.",
            parameters=dict(_SHELL_PARAMETERS),
        )
        return _Found(function, CalledTool("local_shell", LOCAL_SHELL))
    return None


class _CustomFunction(FunctionDeclaration, kw_only=True):
    """A custom tool as a function. The dialect holds its input to the grammar."""

    input_grammar: dict[str, str]


def _custom_tool(tool: CustomTool, path: str, budget: Budget, namespace: str | None) -> _Found:
    description, given = tool.description or "", tool.format
    if given is not None and given.type == "grammar":
        if given.definition is None:
            raise missing_parameter(f"{path}.format.definition")
        description += f"\nThe input follows this {given.syntax or 'lark'} grammar:\n{given.definition}"
    name = qualified_name(namespace, tool.name)
    parameters = {
        "type": "object",
        "properties": {CUSTOM_INPUT: {"type": "string"}},
        "required": [CUSTOM_INPUT],
    }
    function = FunctionDeclaration(name=name, description=description, parameters=parameters)
    grammar = _enforceable_grammar(given, path, budget)
    if grammar is not None:
        function = _CustomFunction(
            name=name, description=description, parameters=parameters, strict=True, input_grammar=grammar
        )
    return _Found(function, CalledTool("custom", tool.name, namespace), bool(tool.defer_loading))


def _enforceable_grammar(given: CustomFormat | None, path: str, budget: Budget) -> dict[str, str] | None:
    """Return the grammar of a custom tool's input, if it has one that can be enforced.

    Raises `InvalidRequestError` for one that would keep the decoder, or its check the gateway, busy.
    """
    if given is None or given.type != "grammar" or given.definition is None:
        return None
    grammar = {"syntax": given.syntax or "lark", "definition": given.definition}
    try:
        input_node(**grammar, budget=budget)
    except NotEnforceableError:
        return None
    except SchemaError as error:
        param = f"{path}.format.definition"
        raise InvalidRequestError(f"Invalid grammar in '{param}': {error.problem}.", param=param) from None
    return grammar


def effective_tools(raw_tools: Sequence[msgspec.Raw]) -> list[msgspec.Raw | dict[str, Any]]:
    """Return the tools as the answer shows them: without those left out, and with the formats in effect.

    The tools have been checked.
    """
    shown: list[msgspec.Raw | dict[str, Any]] = []
    for raw in raw_tools:
        kind = msgspec.json.decode(raw, type=_Head).type
        if kind in ("function", "local_shell"):
            shown.append(raw)
        elif kind == "namespace":
            group = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            inner = effective_tools(_namespace_decoder.decode(raw).tools)
            shown.append({**group, "tools": inner})
        elif kind == "custom":
            shown.append(_effective_custom(raw))
        elif kind == "tool_search" and _search_decoder.decode(raw).execution == "client":
            shown.append(raw)
    return shown


def _effective_custom(raw: msgspec.Raw) -> msgspec.Raw | dict[str, Any]:
    given = _custom_decoder.decode(raw).format
    if given is None or given.type == "text" or _enforceable_grammar(given, "tools", Budget()) is not None:
        return raw
    tool: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return {**tool, "format": {"type": "text"}}
