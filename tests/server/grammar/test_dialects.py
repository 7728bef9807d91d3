"""The same cases in every dialect: replies read whole and in pieces, calls constrained and parsed."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialect import Dialect
from serval.grammar.dialects.longcat import LONGCAT
from serval.grammar.dialects.longcat_json import LONGCAT_JSON
from serval.grammar.structural_tag import calls_tag, structural_tag
from serval.schema.error import SchemaError, UnsatisfiableError
from serval.tools.message import AssistantMessage, assemble
from serval_testkit.grammar_walk import accepts, compiled, compiled_text
from serval_testkit.longcat_text import KO, TC, TE, THINK, THINK_END, VC, VO, call, pair

Arguments = dict[str, Any]


def longcat_call(name: str, arguments: Arguments) -> str:
    pairs = (
        pair(key, value if isinstance(value, str) else json.dumps(value)) for key, value in arguments.items()
    )
    return call(name, *pairs)


def json_call(name: str, arguments: Arguments) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{TC}\n{body}\n{TE}\n"


class Writer(NamedTuple):
    dialect: Dialect
    call: Callable[[str, Arguments], str]


WRITERS = {"longcat": Writer(LONGCAT, longcat_call), "json": Writer(LONGCAT_JSON, json_call)}


@pytest.fixture(params=WRITERS, ids=list(WRITERS))
def writer(request: pytest.FixtureRequest) -> Writer:
    return WRITERS[request.param]


PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1},
        "unit": {"enum": ["celsius", "kelvin", None]},
        "opts": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
    },
    "required": ["city"],
}


def tool(name: str, parameters: Any = None, *, strict: bool | None = True) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}}


TOOLS = [tool("get_weather", PARAMETERS), tool("now")]
# Arguments of `get_weather`, in the declared order.
VALID: list[Arguments] = [
    {"city": "Paris"},
    {"city": ""},
    {"city": ' raw <b> & "quotes" \\ \n 北京 {"a": 1} '},
    {"city": "Paris", "days": 3, "unit": None},
    {"city": "Paris", "unit": "kelvin", "opts": {"on": True}, "code": "AB12"},
    {"city": "007", "tags": ["a", "b}"]},
]
INVALID: list[Arguments] = [
    {},
    {"days": 3},
    {"days": 3, "city": "Paris"},
    {"city": "Paris", "days": 0},
    {"city": "Paris", "days": "three"},
    {"city": "Paris", "unit": "fahrenheit"},
    {"city": "Paris", "opts": {}},
    {"city": "Paris", "opts": {"on": 1}},
    {"city": "Paris", "code": "ab12"},
    {"city": "Paris", "tags": ["a", "b", "c"]},
    {"city": "Paris", "unknown": 1},
]


def read(
    writer: Writer,
    pieces: list[str],
    *,
    tools: list[dict[str, Any]] = TOOLS,
    finish_reason: str = "stop",
    **options: bool,
) -> AssistantMessage:
    parser = writer.dialect.parser(tools, **options)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return assemble([*events, *parser.finish(finish_reason)])


def replies(writer: Writer) -> dict[str, tuple[str, AssistantMessage]]:
    """Return texts in the dialect, with the messages they are read as."""
    now, paris = writer.call("now", {}), writer.call("get_weather", {"city": "Paris", "days": 3})
    calls = (("get_weather", '{"city": "Paris", "days": 3}'), ("now", "{}"))
    hostile = writer.call("get_weather", {"city": f"a {TE} {THINK_END} {TC}"})
    return {
        "text": ("Hello <b>\n", AssistantMessage("Hello <b>\n", None, ())),
        "one call": (paris, AssistantMessage(None, None, calls[:1])),
        "two calls": (paris + now, AssistantMessage(None, None, calls)),
        "text around calls": (f"Well.\n{paris}{now}done", AssistantMessage("Well.\ndone", None, calls)),
        "undeclared tool": (
            writer.call("foo", {"a": 1}) + now,
            AssistantMessage(None, None, (("foo", '{"a": 1}'), calls[1])),
        ),
        "never closed": (paris.removesuffix(f"{TE}\n"), AssistantMessage(None, None, calls[:1])),
        "reasoning": (f"{THINK}\nhm\n{THINK_END}\nyes", AssistantMessage("yes", "hm", ())),
        "reasoning and a call": (f"{THINK}hm{THINK_END}{now}", AssistantMessage(None, "hm", calls[1:])),
        "reasoning ended by a call": (
            f"{THINK}hm\n{now}well{THINK_END}yes",
            AssistantMessage("wellyes", "hm", calls[1:]),
        ),
        "marker in prose": (f"write `{TC}` there", AssistantMessage(f"write `{TC}` there", None, ())),
        "markers in a value": (
            hostile,
            AssistantMessage(
                None, None, (("get_weather", json.dumps({"city": f"a {TE} {THINK_END} {TC}"})),)
            ),
        ),
    }


REPLIES = list(replies(WRITERS["json"]))


@pytest.mark.parametrize("name", REPLIES)
def test_parser_reads_whole_reply(writer: Writer, name: str) -> None:
    text, message = replies(writer)[name]
    assert read(writer, [text]) == message


@pytest.mark.parametrize("name", REPLIES)
def test_parser_reads_same_message_at_every_cut(writer: Writer, name: str) -> None:
    text, message = replies(writer)[name]
    assert read(writer, list(text)) == message
    for cut in range(1, len(text)):
        assert read(writer, [text[:cut], text[cut:]]) == message


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
@pytest.mark.parametrize("name", REPLIES)
def test_parser_reads_same_message_streamed_and_whole_wherever_it_ends(
    writer: Writer, name: str, finish_reason: str
) -> None:
    text, _ = replies(writer)[name]
    for end in range(len(text)):
        whole = read(writer, [text[:end]], finish_reason=finish_reason)
        assert read(writer, list(text[:end]), finish_reason=finish_reason) == whole
        for _, arguments in whole.calls if finish_reason == "stop" else ():
            assert isinstance(json.loads(arguments), dict)


def test_parser_leaves_answer_of_one_kind_alone(writer: Writer) -> None:
    text = '{"quoted": "' + writer.call("now", {}) + '"}'
    assert read(writer, [text], one_kind=True) == AssistantMessage(text, None, ())


@pytest.mark.parametrize("arguments", VALID, ids=json.dumps)
def test_valid_call_is_admitted_and_read(writer: Writer, arguments: Arguments) -> None:
    grammar = compiled(
        structural_tag(writer.dialect, TOOLS, tool_choice="required", parallel_tool_calls=True) or {}
    )
    text = writer.call("get_weather", arguments)
    assert accepts(grammar, text)
    assert accepts(grammar, text + writer.call("now", {}) + text)
    ((name, read_arguments),) = read(writer, [text]).calls
    assert (name, json.loads(read_arguments)) == ("get_weather", arguments)


@pytest.mark.parametrize("arguments", INVALID, ids=json.dumps)
def test_invalid_call_is_not_admitted(writer: Writer, arguments: Arguments) -> None:
    for choice in ("required", "auto"):
        tag = structural_tag(writer.dialect, TOOLS, tool_choice=choice, parallel_tool_calls=True)
        assert not accepts(compiled(tag or {}), writer.call("get_weather", arguments))


def test_tool_choice_decides_what_may_stand_around_calls(writer: Writer) -> None:
    now, foo = writer.call("now", {}), writer.call("foo", {})

    def admitted(text: str, **options: Any) -> bool:
        return accepts(compiled(structural_tag(writer.dialect, TOOLS, **options) or {}), text)

    assert admitted(f"Well.{now}{now}done", tool_choice="auto", parallel_tool_calls=True)
    assert not admitted(foo, tool_choice="auto", parallel_tool_calls=True)
    assert not admitted(f"stray {TE}", tool_choice="auto", parallel_tool_calls=True)
    assert not admitted(f"Well.{now}", tool_choice="required", parallel_tool_calls=True)
    assert not admitted("", tool_choice="required", parallel_tool_calls=True)
    assert not admitted(now + now, tool_choice="required", parallel_tool_calls=False)
    named = {"type": "function", "function": {"name": "now"}}
    assert admitted(now, tool_choice=named, parallel_tool_calls=False)
    assert not admitted(
        writer.call("get_weather", {"city": "x"}), tool_choice=named, parallel_tool_calls=False
    )


def test_tool_that_is_not_strict_takes_any_arguments(writer: Writer) -> None:
    tools = [tool("get_weather", PARAMETERS, strict=False)]
    grammar = compiled(
        structural_tag(writer.dialect, tools, tool_choice="required", parallel_tool_calls=True) or {}
    )
    assert accepts(grammar, writer.call("get_weather", {"days": "x", "new": [1]}))
    assert not accepts(grammar, "text")


def test_tool_without_parameters_takes_no_arguments(writer: Writer) -> None:
    grammar = compiled(
        calls_tag(writer.dialect, [tool("now")], tool_choice="required", parallel_tool_calls=True)
    )
    assert accepts(grammar, writer.call("now", {}))
    assert not accepts(grammar, writer.call("now", {"city": "x"}))


def test_reasoning_precedes_constrained_calls(writer: Writer) -> None:
    tag = calls_tag(writer.dialect, TOOLS, tool_choice="required", parallel_tool_calls=True, thinking=True)
    text = f"hm{THINK_END}\n{writer.call('now', {})}"
    assert accepts(compiled(tag), text)
    assert read(writer, [text], thinking=True) == AssistantMessage(None, "hm", (("now", "{}"),))


def test_reasoning_splitter_leaves_calls_in_rest(writer: Writer) -> None:
    now = writer.call("now", {})
    for text in (f"hm\n{THINK_END}\n{now}", f"hm\n{now}"):
        for pieces in ([text], list(text)):
            splitter = writer.dialect.reasoning_splitter(thinking=True)
            events = [event for piece in pieces for event in splitter.feed(piece)]
            message = assemble([*events, *splitter.finish()])
            assert (message.reasoning, message.content) == ("hm", now)


def test_calls_stand_beside_json_answer(writer: Writer) -> None:
    text = answer_grammar(
        writer.dialect,
        TOOLS,
        tool_choice="auto",
        parallel_tool_calls=True,
        response_format={"type": "json_object"},
    )
    grammar = compiled_text(text or "")
    assert accepts(grammar, '{"a": 1}')
    assert accepts(grammar, writer.call("now", {}))
    assert not accepts(grammar, "text")


@pytest.mark.parametrize(
    ("parameters", "error", "complaint"),
    [
        ({"type": "array"}, SchemaError, "arguments are an object"),
        ({"properties": {"a": {"not": {}}}}, SchemaError, "tools/f/parameters/properties/a/not"),
        ({"type": "object", "minProperties": 1}, UnsatisfiableError, "declares none"),
        ({"properties": {"a": False}, "required": ["a"]}, UnsatisfiableError, "required and not allowed"),
    ],
)
def test_parameters_that_cannot_be_enforced_are_refused(
    writer: Writer, parameters: Any, error: type[SchemaError], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        structural_tag(
            writer.dialect, [tool("f", parameters)], tool_choice="required", parallel_tool_calls=True
        )


LISTED = [{"a": "x"}, {"a": "y", "n": [1]}]
BRANCHES = [
    {"type": "object", "properties": {"a": {"const": "x"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"const": "y"}, "n": {"enum": [[1]]}}, "required": ["a", "n"]},
]


@pytest.mark.parametrize(
    "parameters",
    [
        {"enum": [*LISTED, 3]},
        {"type": "object", "enum": LISTED},
        {"anyOf": BRANCHES},
        {"oneOf": BRANCHES},
        {"anyOf": [{"const": LISTED[0]}, BRANCHES[1]]},
        {"allOf": [{"enum": LISTED}, {"type": "object"}]},
        {"$ref": "#/$defs/all", "$defs": {"all": {"enum": LISTED}}},
        {
            "$ref": "#/$defs/all",
            "$defs": {"all": {"anyOf": [{"$ref": "#/$defs/one"}, BRANCHES[1]]}, "one": BRANCHES[0]},
        },
    ],
    ids=["enum", "typed enum", "anyOf", "oneOf", "const", "allOf", "$ref to enum", "$ref to anyOf"],
)
def test_alternatives_of_whole_arguments_are_enforced(writer: Writer, parameters: Any) -> None:
    tools = [tool("f", parameters)]
    tag = structural_tag(writer.dialect, tools, tool_choice="required", parallel_tool_calls=False)
    grammar = compiled(tag or {})
    for arguments in LISTED:
        assert accepts(grammar, writer.call("f", arguments))
        ((_, read_arguments),) = read(writer, [writer.call("f", arguments)], tools=tools).calls
        assert json.loads(read_arguments) == arguments
    for arguments in ({}, {"a": "y"}, {"a": "x", "n": [1]}, {"a": "z"}):
        assert not accepts(grammar, writer.call("f", arguments))


NOT_A_SCHEMA = {
    "reference to nowhere": {"$ref": "#/$defs/Row"},
    "reference to another document": {"$ref": "https://elsewhere/schema"},
    "reference to itself": {"$ref": "#/properties/bad"},
    "itself among alternatives": {"anyOf": [{"$ref": "#/properties/bad"}, {"type": "null"}]},
    "unknown type": {"type": "dict"},
    "enum is null": {"enum": None},
    "properties is null": {"type": "object", "properties": None},
    "required is a flag": {"type": "string", "required": True},
    "number is text": {"type": "integer", "minimum": "3"},
    "no alternatives": {"anyOf": []},
    "not a schema": 3,
    "step of zero": {"type": "integer", "multipleOf": 0},
}


@pytest.mark.parametrize("bad", NOT_A_SCHEMA.values(), ids=NOT_A_SCHEMA.keys())
def test_invalid_part_of_tool_is_left_out_unless_strict(writer: Writer, bad: Any) -> None:
    parameters = {
        "type": "object",
        "properties": {"bad": bad, "days": {"type": "integer"}},
        "required": ["days"],
    }
    tools = [tool("now"), tool("edit", parameters, strict=None)]
    tag = structural_tag(writer.dialect, tools, tool_choice="required", parallel_tool_calls=True)
    grammar = compiled(tag or {})
    assert accepts(grammar, writer.call("now", {}))
    assert accepts(grammar, writer.call("edit", {"days": 3}))
    assert not accepts(grammar, writer.call("edit", {"days": "three"}))
    with pytest.raises(SchemaError, match="tools/edit/parameters/properties/bad"):
        structural_tag(
            writer.dialect, [tool("edit", parameters)], tool_choice="required", parallel_tool_calls=True
        )


@pytest.mark.parametrize(
    "parameters",
    [{"type": "string"}, {"type": ["array", "null"]}, {"enum": [1, "a"]}, {"anyOf": [{"type": "string"}]}],
)
@pytest.mark.parametrize("strict", [None, True])
def test_tool_whose_parameters_are_no_object_is_refused(
    writer: Writer, parameters: Any, strict: bool | None
) -> None:
    """The model would otherwise be made to call it, with arguments that its schema does not allow."""
    tools = [tool("f", parameters, strict=strict)]
    with pytest.raises(SchemaError, match="arguments are an object") as caught:
        structural_tag(writer.dialect, tools, tool_choice="required", parallel_tool_calls=True)
    assert caught.value.path == "tools/f/parameters/type"


@pytest.mark.parametrize("parameters", [{"type": "dict"}, {"enum": None}, False, {"$ref": "#"}, 3])
def test_tool_whose_parameters_mean_nothing_takes_any_arguments(writer: Writer, parameters: Any) -> None:
    tools = [tool("f", parameters, strict=None)]
    tag = structural_tag(writer.dialect, tools, tool_choice="required", parallel_tool_calls=True)
    assert accepts(compiled(tag or {}), writer.call("f", {"x": 3}))


@pytest.mark.parametrize("name", ["", None, "\ud800"])
def test_name_that_cannot_be_written_is_refused(writer: Writer, name: Any) -> None:
    with pytest.raises(SchemaError, match="cannot be written in a call"):
        structural_tag(writer.dialect, [tool(name)], tool_choice="required", parallel_tool_calls=True)


def test_wildcard_writes_marker_start_only_where_it_is_data() -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^..$"}},
        "required": ["a"],
    }
    admitted = {}
    for name, writer in WRITERS.items():
        tag = structural_tag(
            writer.dialect, [tool("f", parameters)], tool_choice="required", parallel_tool_calls=True
        )
        admitted[name] = accepts(compiled(tag or {}), writer.call("f", {"a": "a<"}))
    assert admitted == {"longcat": False, "json": True}


def test_json_parser_takes_marker_without_object_for_prose() -> None:
    text = longcat_call("now", {})
    assert read(WRITERS["json"], [text]) == AssistantMessage(text, None, ())


def test_longcat_parser_reads_calls_in_json_too() -> None:
    text = json_call("now", {}) + longcat_call("now", {})
    assert read(WRITERS["longcat"], [text]).calls == (("now", "{}"), ("now", "{}"))


@pytest.mark.parametrize("stray", [KO, VO, VC])
def test_markers_inside_calls_are_not_written_in_text(stray: str) -> None:
    tag = structural_tag(LONGCAT, TOOLS, tool_choice="auto", parallel_tool_calls=True)
    assert not accepts(compiled(tag or {}), f"text {stray}")
