"""Outputs that tools and `response_format` together admit, checked with xgrammar's compiler."""

import os
import subprocess
import sys
from typing import Any

import pytest

from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialects.longcat import LONGCAT
from serval.schema.error import SchemaError
from serval_testkit.grammar_walk import accepts, compiled_text
from serval_testkit.longcat_text import call, pair

TOOLS = [
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
]
NOW = call("now")
COUNT = {
    "type": "object",
    "properties": {"count": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}}},
    "required": ["count", "names"],
    "additionalProperties": False,
}
VALID = '{"count": 3, "names": ["a", "b"]}'


def json_schema(schema: Any, *, strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": strict}}


def grammar(response_format: Any = None, *, tools: Any = (), tool_choice: Any = "auto") -> Any:
    text = answer_grammar(
        LONGCAT, tools, tool_choice=tool_choice, parallel_tool_calls=True, response_format=response_format
    )
    return None if text is None else compiled_text(text)


@pytest.mark.parametrize("response_format", [None, {"type": "text"}])
def test_text_format_does_not_constrain_decoder(response_format: Any) -> None:
    assert grammar(response_format) is None
    assert grammar(response_format, tools=TOOLS) is None
    assert grammar(response_format, tools=TOOLS, tool_choice="none") is None


def test_json_object_admits_any_object() -> None:
    anything = grammar({"type": "json_object"})
    assert accepts(anything, "{}")
    assert accepts(anything, '{"a": [1, {"b": "c"}], "d": null}')
    for text in ("[]", "3", "", "{", "Sure: {}", "{} and more", NOW):
        assert not accepts(anything, text), text


def test_json_schema_covers_whole_answer() -> None:
    enforced = grammar(json_schema(COUNT))
    assert accepts(enforced, VALID)
    for text in ('{"count": 3}', '{"count": "3", "names": []}', VALID + VALID, f"Here: {VALID}", "{}"):
        assert not accepts(enforced, text), text


def test_json_answer_bounds_whitespace() -> None:
    enforced = grammar(json_schema(COUNT))
    assert accepts(enforced, '{\n    "count": 3,\n    "names": [\n        "a"\n    ]\n}')
    assert not accepts(enforced, '{"count":' + " " * 100 + '3, "names": []}')


def test_schema_without_strict_is_enforced_where_possible() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    loose = grammar(json_schema(schema, strict=False))
    assert accepts(loose, '{"a": [1, 1]}')
    assert not accepts(loose, '{"a": 1}')
    with pytest.raises(SchemaError) as caught:
        grammar(json_schema(schema))
    assert caught.value.path == "response_format/json_schema/schema/properties/a/uniqueItems"


def test_tool_choice_auto_admits_calls_or_json() -> None:
    either = grammar(json_schema(COUNT), tools=TOOLS)
    for text in (VALID, NOW, NOW + NOW):
        assert accepts(either, text), text
    for text in ("It is noon.", VALID + NOW, NOW + VALID, call("now", pair("x", "1")).replace("now", "foo")):
        assert not accepts(either, text), text


def test_tool_choice_none_admits_only_json() -> None:
    only_json = grammar(json_schema(COUNT), tools=TOOLS, tool_choice="none")
    assert accepts(only_json, VALID)
    assert not accepts(only_json, NOW)


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "function": {"name": "now"}}])
def test_required_call_excludes_json(tool_choice: Any) -> None:
    required = grammar(json_schema(COUNT), tools=TOOLS, tool_choice=tool_choice)
    assert accepts(required, NOW)
    assert not accepts(required, VALID)


@pytest.mark.parametrize("given", [{}, {"type": "yaml"}, {"type": "json_schema"}])
def test_unknown_format_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="response_format"):
        grammar(given)


_PRINT_GRAMMAR = """
from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialects.longcat import LONGCAT
number = {"type": ["integer", "string"], "minimum": 1, "maximum": 5, "maxLength": 20000, "minLength": 1}
deep = {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1, "maxItems": 3}
bounds = {"type": "object", "minProperties": 1, "maxProperties": 4, "additionalProperties": number}
schema = {"type": "object", "properties": {"b": number, "a": deep, "c": bounds}, "required": ["a", "b"],
          "$defs": {"n": number}}
tools = [{"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}]
form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
print(answer_grammar(LONGCAT, tools, tool_choice="auto", parallel_tool_calls=True, response_format=form))
"""


def test_answer_grammar_is_same_in_every_process() -> None:
    """SGLang caches compiled grammars by their text, and Python orders sets differently in each process."""
    written = {
        subprocess.run(
            [sys.executable, "-c", _PRINT_GRAMMAR],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3", "4")
    }
    assert len(written) == 1
    assert '"minimum"' in written.pop()
