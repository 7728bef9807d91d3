"""Outputs that structural tags admit, checked with xgrammar's compiler."""

from typing import Any

import pytest

from serval.grammar.dialects.longcat import LONGCAT
from serval.grammar.structural_tag import structural_tag
from serval.schema.error import SchemaError
from serval_testkit.grammar_walk import accepts, compiled
from serval_testkit.longcat_text import KC, KO, TC, TE, VC, VO, call, pair

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["celsius", "kelvin", None]},
        "opts": {"$ref": "#/$defs/opts"},
        "who": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "size": {"anyOf": [{"enum": ["big", "small"]}, {"type": "integer", "minimum": 3}]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
        "day": {"type": "string", "format": "date"},
        "word": {"type": "string", "minLength": 2, "maxLength": 4},
        "any": {},
    },
    "required": ["city"],
    "$defs": {
        "opts": {
            "type": "object",
            "properties": {
                "deep": {"type": "array", "items": {"$ref": "#/$defs/opts"}},
                "on": {"type": "boolean"},
            },
            "required": ["on"],
        }
    },
}


def tool(name: str, parameters: Any = None, *, strict: bool | None = True) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name}
    if parameters is not None:
        function["parameters"] = parameters
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


TOOLS = [tool("get_weather", PARAMETERS), tool("now")]
NAMED = {"type": "function", "function": {"name": "now"}}
PARIS = call("get_weather", pair("city", "Paris"))
NOW = call("now")


def weather(*pairs: str) -> str:
    return call("get_weather", pair("city", "Paris"), *pairs)


@pytest.fixture(scope="module")
def required() -> Any:
    return compiled(structural_tag(LONGCAT, TOOLS, tool_choice="required", parallel_tool_calls=True) or {})


class TestRequired:
    @pytest.mark.parametrize(
        "text",
        [
            PARIS,
            PARIS.rstrip("\n"),
            PARIS + NOW + PARIS,
            call("get_weather", pair("city", "")),
            call("get_weather", pair("city", 'raw <b> & "quotes" \\ \n 北京 </b> a < b')),
            weather(pair("days", "3"), pair("unit", "kelvin")),
            weather(pair("days", "-3"), pair("unit", "null"), pair("opts", '{"on": true}')),
            weather(pair("opts", '{"deep": [{"on": false}], "on": true}')),
            weather(pair("who", "Smith"), pair("size", "big")),
            weather(pair("who", "null"), pair("size", "12")),
            weather(pair("code", "AB12"), pair("day", "2026-02-28"), pair("word", "ab")),
            weather(pair("word", "abcd"), pair("any", '{"x": 1}')),
            weather(pair("any", "text")),
        ],
    )
    def test_required_admits_valid_calls(self, required: Any, text: str) -> None:
        assert accepts(required, text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "Let me see. " + PARIS,
            PARIS + "done",
            call("foo"),
            call("get_weather"),
            call("get_weather", pair("days", "3")),
            call("get_weather", pair("city", "Paris"), pair("city", "Rome")),
            call("get_weather", pair("days", "3"), pair("city", "Paris")),
            call("get_weather", pair("city", f"a{VC}b")),
            call("get_weather", pair("city", f"a{TE}b")),
            call("now", pair("city", "Paris")),
            weather(pair("days", "three")),
            weather(pair("days", '"3"')),
            weather(pair("days", "3.5")),
            weather(pair("unit", "fahrenheit")),
            weather(pair("unit", '"kelvin"')),
            weather(pair("opts", "{}")),
            weather(pair("opts", '{"on": 1}')),
            weather(pair("opts", '{"on": true, "off": true}')),
            weather(pair("size", "medium")),
            weather(pair("size", "2")),
            weather(pair("code", "ab12")),
            weather(pair("code", "xAB12")),
            weather(pair("day", "2026-13-01")),
            weather(pair("word", "a")),
            weather(pair("word", "abcde")),
            weather(pair("unknown", "1")),
            f"{TC}now",
            f"{TC}now\n{TC}now\n{TE}",
            f"{TC}get_weather\n{KO}city{KC}\nParis{VC}\n{TE}",
            f"{TC}get_weather\n{KO}city{KC}\n{VO}Paris{TE}",
        ],
    )
    def test_required_refuses_everything_else(self, required: Any, text: str) -> None:
        assert not accepts(required, text)

    def test_without_parallel_calls_one_call_is_admitted(self) -> None:
        one = compiled(
            structural_tag(LONGCAT, TOOLS, tool_choice="required", parallel_tool_calls=False) or {}
        )
        assert accepts(one, NOW)
        assert not accepts(one, NOW + NOW)
        assert not accepts(one, "")


def test_named_tool_admits_only_its_calls() -> None:
    tag = structural_tag(LONGCAT, TOOLS, tool_choice=NAMED, parallel_tool_calls=True)
    named = compiled(tag or {})
    assert accepts(named, NOW + NOW)
    assert not accepts(named, PARIS)
    with pytest.raises(SchemaError, match="there is no tool 'then'"):
        structural_tag(LONGCAT, TOOLS, tool_choice={"function": {"name": "then"}}, parallel_tool_calls=True)


class TestAuto:
    def test_auto_leaves_text_free_and_constrains_calls(self) -> None:
        auto = compiled(structural_tag(LONGCAT, TOOLS, tool_choice="auto", parallel_tool_calls=True) or {})
        for text in ("", "just text < 3", "a" + PARIS, f"a{NOW}b\n{PARIS}", PARIS + NOW):
            assert accepts(auto, text)
        bad_calls = (call("foo"), call("get_weather"), weather(pair("days", "x")))
        for text in (*bad_calls, f"stray {TE}", f"stray {VO}"):
            assert not accepts(auto, text)

    def test_auto_admits_any_arguments_without_strict(self) -> None:
        tools = [tool("now"), tool("get_weather", PARAMETERS, strict=None)]
        auto = compiled(structural_tag(LONGCAT, tools, tool_choice="auto", parallel_tool_calls=True) or {})
        assert accepts(auto, call("get_weather", pair("days", "x"), pair("new key", "{")))
        assert accepts(auto, call("get_weather"))
        assert not accepts(auto, call("get_weather", f"{KO}days{KC}{VO}"))
        assert not accepts(auto, call("now", pair("days", "x")))

    def test_without_parallel_calls_one_call_is_admitted(self) -> None:
        tools = [tool("now", strict=None)]
        one = compiled(structural_tag(LONGCAT, tools, tool_choice="auto", parallel_tool_calls=False) or {})
        assert accepts(one, "text")
        assert accepts(one, "text" + NOW)
        assert not accepts(one, NOW + NOW)

    def test_auto_without_strict_tool_does_not_constrain_decoder(self) -> None:
        tools = [tool("now", strict=None), tool("then", strict=False)]
        assert structural_tag(LONGCAT, tools, tool_choice="auto", parallel_tool_calls=True) is None
        assert structural_tag(LONGCAT, TOOLS, tool_choice="none", parallel_tool_calls=True) is None
        assert structural_tag(LONGCAT, [], tool_choice="auto", parallel_tool_calls=False) is None


def test_required_admits_any_arguments_with_strict_false() -> None:
    tools = [tool("get_weather", PARAMETERS, strict=False)]
    grammar = compiled(structural_tag(LONGCAT, tools, tool_choice="required", parallel_tool_calls=True) or {})
    assert accepts(grammar, call("get_weather", pair("days", "x")))
    assert not accepts(grammar, "text")
