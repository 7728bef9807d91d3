"""Tools and tool choice of the Responses API as those of Chat Completions."""

from typing import Any

import msgspec
import pytest

from serval.errors import InvalidRequestError
from serval.wire.responses.request import ToolChoice
from serval.wire.responses.tool_choice import chat_tool_choice
from serval.wire.responses.tools import CalledTool, ToolSet, chat_tools, effective_tools

FUNCTION: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
SEARCH: dict[str, Any] = {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}}
DEFERRED: dict[str, Any] = {"type": "function", "name": "late", "defer_loading": True}
CUSTOM: dict[str, Any] = {"type": "custom", "name": "patch", "description": "Patches."}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}


def raw(*tools: dict[str, Any]) -> list[msgspec.Raw]:
    return [msgspec.Raw(msgspec.json.encode(tool)) for tool in tools]


def names(tools: list[Any]) -> list[str]:
    return [tool.function.name for tool in tools]


def namespace(name: str, *functions: str) -> dict[str, Any]:
    tools = [{"type": "function", "name": function} for function in functions]
    return {"type": "namespace", "name": name, "description": "d", "tools": tools}


def test_equal_names_in_two_namespaces_do_not_collide() -> None:
    made = chat_tools(raw(namespace("a", "close"), namespace("b", "close"), {**FUNCTION, "name": "close"}))
    assert names(made.declared) == ["a.close", "b.close", "close"]
    assert made.called == {
        "a.close": CalledTool("function", "close", "a"),
        "b.close": CalledTool("function", "close", "b"),
        "close": CalledTool("function", "close"),
    }


def test_function_keeps_its_schema_and_strictness() -> None:
    (tool,) = chat_tools(raw(FUNCTION)).declared
    assert tool.function is not None
    assert (tool.function.parameters, tool.function.strict) == ({"type": "object"}, True)


def test_custom_tool_has_one_text_argument_and_its_grammar_in_the_description() -> None:
    (tool,) = chat_tools(raw({**CUSTOM, "format": GRAMMAR})).declared
    assert tool.function is not None
    assert tool.function.parameters is not None
    assert list(tool.function.parameters["properties"]) == ["input"]
    assert 'start: "a"' in (tool.function.description or "")


HOSTED = ["web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "mcp"]


@pytest.mark.parametrize("kind", [*HOSTED, "computer_use_preview", "of_the_future"])
def test_tool_that_a_server_runs_is_left_out(kind: str) -> None:
    made = chat_tools(raw(FUNCTION, {"type": kind, "name": 5, "external_web_access": True}))
    assert names(made.declared) == ["f"]
    assert effective_tools(raw({"type": kind}, FUNCTION)) == raw(FUNCTION)


def test_search_without_a_client_is_left_out_and_its_tools_are_declared() -> None:
    hosted = chat_tools(raw({"type": "tool_search"}, DEFERRED))
    assert (names(hosted.declared), hosted.deferred) == (["late"], [])
    mine = chat_tools(raw(SEARCH, DEFERRED))
    assert (names(mine.declared), names(mine.deferred)) == (["tool_search"], ["late"])


RECURSIVE = {**GRAMMAR, "definition": 'start: "a" start | "b"'}


def shown(*tools: dict[str, Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(effective_tools(raw(*tools))))


def test_answer_shows_the_format_in_effect() -> None:
    enforced = {**CUSTOM, "format": GRAMMAR}
    described = {**CUSTOM, "format": RECURSIVE}
    inside = {"type": "namespace", "name": "n", "tools": [described]}
    free = {**CUSTOM, "format": {"type": "text"}}
    assert shown(enforced, described, CUSTOM, inside) == [enforced, free, CUSTOM, {**inside, "tools": [free]}]


@pytest.mark.parametrize(
    ("form", "enforced"),
    [
        (GRAMMAR, True),
        (RECURSIVE, False),
        ({**GRAMMAR, "definition": "no grammar"}, False),
        ({"type": "grammar", "syntax": "regex", "definition": "[ab]+"}, True),
        ({"type": "grammar", "syntax": "regex", "definition": "(?=a)b"}, False),
        ({"type": "grammar", "syntax": "odd", "definition": "a"}, False),
        ({"type": "of_the_future"}, False),
        ({"type": "text"}, False),
        (None, False),
    ],
)
def test_custom_tool_is_strict_if_its_grammar_is_enforced(form: Any, enforced: bool) -> None:
    (tool,) = chat_tools(raw({**CUSTOM, "format": form})).declared
    assert tool.function is not None
    assert bool(tool.function.strict) is enforced
    if form is not None and "definition" in form:
        assert form["definition"] in (tool.function.description or "")


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([FUNCTION, FUNCTION], "tools[1].name"),
        ([FUNCTION, {**CUSTOM, "name": "f"}], "tools[1].name"),
        ([namespace("a", "f", "f")], "tools[0].tools[1].name"),
        ([{"type": "function"}], "tools[0].name"),
        ([{**CUSTOM, "format": {"type": "grammar"}}], "tools[0].format.definition"),
        (
            [{**CUSTOM, "format": {**GRAMMAR, "definition": "start: /([a-z]+-?)+/"}}],
            "tools[0].format.definition",
        ),
        (
            [{**CUSTOM, "format": {**GRAMMAR, "definition": 'start: ("a"~9999)~9999'}}],
            "tools[0].format.definition",
        ),
        ([{"name": "f"}], "tools[0].type"),
        ([{**FUNCTION, "name": "a b"}], "tools[0].name"),
        ([{**FUNCTION, "parameters": []}], "tools[0].parameters"),
        ([namespace("a b", "f")], "tools[0].name"),
        ([{"type": "namespace", "name": "a", "tools": [{**FUNCTION, "name": 5}]}], "tools[0].tools[0].name"),
        (
            [namespace("a", *[f"f{number}" for number in range(1000)]), namespace("b", *map(str, range(25)))],
            "tools",
        ),
    ],
)
def test_error_names_the_tool(tools: list[dict[str, Any]], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat_tools(raw(*tools))
    assert caught.value.param == param


def toolset() -> ToolSet:
    return chat_tools(raw(FUNCTION, CUSTOM, namespace("a", "close"), SEARCH, {"type": "local_shell"}))


def choice(**fields: Any) -> ToolChoice:
    return msgspec.convert(fields, ToolChoice)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "custom", "name": "patch"}, "patch"),
        ({"type": "function", "name": "close", "namespace": "a"}, "a.close"),
        ({"type": "tool_search"}, "tool_search"),
        ({"type": "local_shell"}, "local_shell"),
    ],
)
def test_choice_names_one_tool(fields: dict[str, Any], name: str) -> None:
    made = chat_tool_choice(choice(**fields), toolset().called)
    assert msgspec.to_builtins(made) == {"type": "function", "function": {"name": name}}


def test_allowed_tools_are_some_of_the_tools_without_hosted_ones() -> None:
    tools = [{"type": "web_search"}, {"type": "function", "name": "f"}, {"type": "custom", "name": "patch"}]
    made = chat_tool_choice(choice(type="allowed_tools", mode="required", tools=tools), toolset().called)
    assert not isinstance(made, str)
    assert made is not None
    assert made.allowed_tools is not None
    assert made.allowed_tools.mode == "required"
    assert [tool.function.name for tool in made.allowed_tools.tools if tool.function] == ["f", "patch"]


@pytest.mark.parametrize("word", [None, "auto", "none", "required"])
def test_choice_may_be_a_word(word: str | None) -> None:
    assert chat_tool_choice(word, toolset().called) == word


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("any", "tool_choice"),
        (choice(type="web_search"), "tool_choice.type"),
        (choice(type="mcp", name="f"), "tool_choice.type"),
        (choice(type="function", name="g"), "tool_choice.name"),
        (choice(type="function"), "tool_choice.name"),
        (choice(type="allowed_tools", tools=[{"type": "function", "name": "f"}]), "tool_choice.mode"),
        (choice(type="allowed_tools", mode="auto"), "tool_choice.tools"),
        (
            choice(type="allowed_tools", mode="auto", tools=[{"type": "web_search"}]),
            "tool_choice.tools[0].type",
        ),
        (
            choice(
                type="allowed_tools", mode="auto", tools=[{"type": "mcp"}, {"type": "custom", "name": "g"}]
            ),
            "tool_choice.tools[1].name",
        ),
    ],
)
def test_choice_error_names_the_field(given: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat_tool_choice(given, toolset().called)
    assert caught.value.param == param


def test_required_call_without_tools_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        chat_tool_choice("required", chat_tools(raw({"type": "web_search"})).called)


def test_many_grammars_together_are_refused() -> None:
    long = " ".join(['"a"'] * 3_000)
    tools = [
        {**CUSTOM, "name": f"t{number}", "format": {**GRAMMAR, "definition": f"start: x\n# {number} {long}"}}
        for number in range(20)
    ]
    with pytest.raises(InvalidRequestError) as caught:
        chat_tools(raw(*tools))
    assert (caught.value.param or "").endswith(".format.definition")
