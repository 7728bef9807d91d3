"""Bounds in schemas: any that is usual is enforced, by a compiler with a cache as SGLang's; none is costly.

Tried beside the reported `maxLength: 129`: lengths to 10,000 and beyond, `minLength`, counted patterns, in
properties, tools, arrays and recursive schemas; `minItems`, `maxItems` and `maxProperties`.
"""

import json
from typing import Any

import pytest

from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.compile_cost import Budget
from serval.grammar.dialects.longcat import LONGCAT
from serval.schema.error import SchemaError
from serval_testkit.grammar_walk import accepts, compiled_text
from serval_testkit.longcat_text import call, pair

NODE = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 255}, "next": {"$ref": "#/$defs/node"}},
    "required": ["text"],
    "additionalProperties": False,
}


def wrapped(value: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"v": value},
        "required": ["v"],
        "additionalProperties": False,
        "$defs": {"node": NODE},
    }


def json_tag(schema: Any) -> str:
    asked = {"name": "r", "schema": schema, "strict": True}
    tag = answer_grammar(
        LONGCAT,
        [],
        tool_choice="auto",
        parallel_tool_calls=True,
        response_format={"type": "json_schema", "json_schema": asked},
    )
    assert tag is not None
    return tag


def tool_tag(*values: Any) -> str:
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": wrapped(value), "strict": True}}
        for number, value in enumerate(values)
    ]
    tag = answer_grammar(LONGCAT, tools, tool_choice="required", parallel_tool_calls=False)
    assert tag is not None
    return tag


def string(**keywords: Any) -> dict[str, Any]:
    return {"type": "string", **keywords}


LENGTHS = [16, 17, 128, 129, 255, 500, 1000, 2500, 5000, 10_000, 100_000]
STRINGS = [
    *((string(maxLength=most), ["", "x" * most, "北" * most], ["x" * (most + 1)]) for most in LENGTHS),
    (string(minLength=200), ["x" * 200, "x" * 900], ["", "x" * 199]),
    (string(minLength=3, maxLength=255), ["abc", "x" * 255], ["ab", "x" * 256]),
    (string(minLength=10_000, maxLength=10_000), ["x" * 10_000], ["x" * 9_999, "x" * 10_001]),
    (string(pattern="^[a-z-]{1,200}$"), ["a", "a-" * 100], ["", "a" * 201, "A"]),
    (string(pattern="^.{4000}$"), ["a" * 4000], ["a" * 3999, "a" * 4001]),
    (string(pattern="^([a-z]{1,50}-){1,50}$"), ["a-" * 50, "a" * 50 + "-"], ["a-" * 51, "a" * 51 + "-"]),
    (string(pattern="^x[0-9]{40,}y?$"), ["x" + "1" * 40, "x" + "1" * 99 + "y"], ["x" + "1" * 39]),
    (string(pattern="^[ab]{20}[bc]{0,30}$"), ["a" * 20, "b" * 50], ["b" * 51, "a" * 19]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), STRINGS, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("place", ["json", "tool", "in a tool's array"])
def test_length_of_string_is_enforced(schema: Any, good: list[str], bad: list[str], place: str) -> None:
    if place == "json":
        grammar = compiled_text(json_tag(wrapped(schema)))
        texts = {value: json.dumps({"v": value}, ensure_ascii=False) for value in (*good, *bad)}
    elif place == "tool":
        grammar = compiled_text(tool_tag(schema))
        texts = {value: call("f0", pair("v", value)) for value in (*good, *bad)}
    else:
        grammar = compiled_text(tool_tag({"type": "array", "items": schema}))
        texts = {
            value: call("f0", pair("v", json.dumps([value], ensure_ascii=False))) for value in (*good, *bad)
        }
    assert [value[:20] for value in good if not accepts(grammar, texts[value])] == []
    assert [len(value) for value in bad if accepts(grammar, texts[value])] == []


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "array", "items": {"type": "null"}, "maxItems": 500}, [[], [None] * 500], [[None] * 501]),
        ({"type": "array", "items": {"type": "null"}, "minItems": 200}, [[None] * 200], [[None] * 199, []]),
        (
            {
                "type": "array",
                "prefixItems": [{"const": 1}, {"const": 2}],
                "items": {"const": 3},
                "maxItems": 30,
            },
            [[], [1], [1, 2], [1, 2, 3], [1, 2] + [3] * 28],
            [[2], [1, 3], [1, 2] + [3] * 29],
        ),
        (
            {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False, "minItems": 1}
            | {"maxItems": 40},
            [[1], [1, 2]],
            [[], [1, 2, 3]],
        ),
        (
            {"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 100},
            [{}, {str(number): None for number in range(100)}],
            [{str(number): None for number in range(101)}, {"a": 1}],
        ),
        (
            {"type": "object", "patternProperties": {"^[a-z]{1,20}$": {"type": "null"}}, "minProperties": 1}
            | {"additionalProperties": False},
            [{"a": None}, {"a" * 20: None, "b": None}],
            [{}, {"a" * 21: None}, {"A": None}],
        ),
        (
            {"$ref": "#/$defs/node"},
            [{"text": "x" * 255}, {"text": "", "next": {"text": "a", "next": {"text": "b"}}}],
            [{"text": "x" * 256}, {"next": {"text": ""}}, {"text": "", "next": {"text": "x" * 256}}],
        ),
        (
            {
                "type": "object",
                "properties": {"a": string(maxLength=99), "b": {}, "c": {"type": ["boolean", "null"]}},
                "required": ["b"],
            },
            [{"b": [{"x": '\n"', "y": -1.5e3}]}, {"a": "x", "b": "", "c": True}, {"b": {}, "c": None}],
            [{}, {"a": "x"}, {"b": 1, "a": "x"}, {"a": "x", "b": 1, "c": 0}, {"b": 1, "d": 2}],
        ),
        (
            {"anyOf": [string(maxLength=99), {"type": "number", "minimum": -2.5, "exclusiveMaximum": 10}]},
            ["x", -2.5, 0, 9.99, -1],
            ["x" * 100, -2.6, 10, 10.0, -3],
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_long_repetition_in_json_is_enforced(schema: Any, good: list[Any], bad: list[Any]) -> None:
    grammar = compiled_text(json_tag(wrapped(schema)))
    assert [value for value in good if not accepts(grammar, json.dumps({"v": value}))] == []
    assert [value for value in bad if accepts(grammar, json.dumps({"v": value}))] == []


def test_rules_admit_line_breaks_between_tokens() -> None:
    grammar = compiled_text(json_tag(wrapped({"type": "array", "items": string(maxLength=20)})))
    assert accepts(grammar, json.dumps({"v": ["a", "b"]}, indent=4))


EXPENSIVE = {"type": "string", "minLength": 31, "maxLength": 33}


@pytest.mark.parametrize("count", [1, 20])
def test_cost_of_equal_patterns_is_counted_once(count: int) -> None:
    compiled_text(tool_tag(*[{"type": "array", "items": EXPENSIVE}] * count))


def test_cost_is_summed_over_all_tools_and_properties() -> None:
    values = [{"type": "array", "items": string(minLength=31, maxLength=33 + more)} for more in range(20)]
    with pytest.raises(SchemaError, match="too expensive to enforce") as caught:
        tool_tag(*values)
    assert caught.value.path.startswith("tools/f")
    assert caught.value.path.endswith("/parameters/properties/v/items")
    many = {f"p{more}": string(minLength=31, maxLength=33 + more) for more in range(20)}
    with pytest.raises(SchemaError, match="at most 10 s are allowed"):
        json_tag({"type": "object", "properties": many})


def test_cost_of_reported_requests_is_allowed() -> None:
    tool_tag(*[string(pattern="^[a-z]{1,500}$")] * 128)
    tool_tag(*[string(maxLength=500)] * 128)
    json_tag({"type": "object", "properties": {f"p{n}": string(maxLength=255) for n in range(100)}})


def test_budget_names_place_that_exceeds_it() -> None:
    budget = Budget(10)
    budget.spend(6, "a", once_for="x")
    budget.spend(6, "b", once_for="x")
    budget.spend(4, "c")
    with pytest.raises(SchemaError) as caught:
        budget.spend(1, "d")
    assert caught.value.path == "d"
