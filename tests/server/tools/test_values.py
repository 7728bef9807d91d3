"""Converting the text of an argument to the JSON value that its schema asks for."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serval.schema.strict_json import MAX_JSON_DEPTH
from serval.tools.parameters import ParameterSchema
from serval.tools.values import MAX_PYTHON_LITERAL

STRING_OR_NULL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
STRING_OR_MORE = {"type": ["string", "integer", "boolean", "object", "array"]}


def value_of(text: str, schema: Any) -> Any:
    parameters = ParameterSchema({"type": "object", "properties": {"a": schema}})
    return json.loads(parameters.argument_json("a", text), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, "3", 3),
        ({"type": "integer"}, " 3\n", 3),
        ({"type": "integer"}, "-0", 0),
        ({"type": "integer"}, '"3"', 3),
        ({"type": "integer"}, "3.0", 3),
        ({"type": "integer"}, '"3.0"', 3),
        ({"type": "integer"}, "1e3", 1000),
        ({"type": "integer"}, "3.5", 3.5),
        ({"type": "integer"}, "three", "three"),
        ({"type": "integer"}, '"three"', "three"),
        ({"type": "integer"}, "007", "007"),
        ({"type": "integer"}, "1_000", "1_000"),
        ({"type": "integer"}, "", ""),
        ({"type": "integer"}, "None", "None"),
        ({"type": "integer"}, "null", None),
        ({"type": ["integer", "null"]}, "None", None),
        ({"type": "number"}, "3", 3),
        ({"type": "number"}, "-0.50", -0.5),
        ({"type": "number"}, "1e999", sys.float_info.max),
        ({"type": "array"}, "[-1e999]", [-sys.float_info.max]),
        ({"type": "object"}, '{"a": "\n\t"}', {"a": "\n\t"}),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "number"}, "-Infinity", "-Infinity"),
        ({"type": "number"}, "9" * 5000, "9" * 5000),
        ({"type": "integer"}, "9" * 4000, int("9" * 4000)),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, '"false"', False),
        ({"type": "boolean"}, '"False"', False),
        ({"type": "boolean"}, "yes", "yes"),
        ({"type": "boolean"}, "1", 1),
        ({"type": "object"}, "{'a': (1, None, True, 'x')}", {"a": [1, None, True, "x"]}),
        ({"type": "object"}, '"{\\"a\\": 1}"', {"a": 1}),
        ({"type": "object"}, "{1: 2}", "{1: 2}"),
        ({"type": "object"}, "{'a': 1e999}", "{'a': 1e999}"),
        ({"type": "object"}, "{'a': b'x'}", "{'a': b'x'}"),
        ({"type": "object"}, "{'a': 0x" + "f" * 20000 + "}", "{'a': 0x" + "f" * 20000 + "}"),
        ({"type": "object"}, "{'a': __import__('os')}", "{'a': __import__('os')}"),
        ({"type": "object"}, "{'a': 1", "{'a': 1"),
        ({"type": "object"}, "{'\\d': 1}", {"\\d": 1}),
        ({"type": "object"}, "{1, 2}", "{1, 2}"),
        ({"type": "array"}, "(1, 2)", [1, 2]),
        ({"type": "array"}, "['a',]", ["a"]),
        ({"type": "array"}, '{"a": 1}', {"a": 1}),
        ({"type": "array"}, "[NaN]", "[NaN]"),
        ({"type": "null"}, "null", None),
        ({"type": "null"}, "None", None),
        ({"type": "string"}, " null ", " null "),
        ({"type": "string"}, '"a"', '"a"'),
        (STRING_OR_NULL, "null", None),
        (STRING_OR_NULL, "None", "None"),
        (STRING_OR_NULL, "Smith ", "Smith "),
        (STRING_OR_NULL, '"Smith"', '"Smith"'),
        (STRING_OR_NULL, "5", "5"),
        ({"type": "string", "nullable": True}, "null", None),
        (STRING_OR_MORE, "5", 5),
        (STRING_OR_MORE, "5.0", "5.0"),
        (STRING_OR_MORE, "True", "True"),
        (STRING_OR_MORE, "{'a': 1}", "{'a': 1}"),
        (STRING_OR_MORE, '{"a": 1}', {"a": 1}),
        (STRING_OR_MORE, "[1, 2", "[1, 2"),
        ({"enum": ["7", 8]}, "7", "7"),
        ({"enum": ["7", 8]}, "8", 8),
        ({"enum": [7, "8"]}, "7", 7),
        ({"enum": ["a", "b"]}, '"a"', "a"),
        ({"enum": ["a", "b"]}, "a\n", "a"),
        ({"enum": ["a", "b"]}, "c", "c"),
        ({"enum": ['"a"', "a"]}, '"a"', '"a"'),
        ({"enum": [" a"]}, " a", " a"),
        ({"enum": ["a", None]}, "null", None),
        ({"enum": ["null", None]}, "null", "null"),
        ({"enum": [1, True]}, "true", True),
        ({"enum": [True]}, "1", 1),
        ({"enum": [1.0]}, "1", 1.0),
        ({"enum": [[1, {"a": 2}]]}, '[1,{"a":2.0}]', [1, {"a": 2}]),
        ({"enum": [1, 2]}, '"2"', 2),
        ({"const": "5"}, "5", "5"),
        ({"const": 5}, "5", 5),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 10}]}, "5", "5"),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 10}]}, "50", 50),
        ({"anyOf": [{"type": "string"}, {"type": "object", "required": ["a"]}]}, '{"b": 1}', '{"b": 1}'),
        ({"anyOf": [{"type": "string"}, {"type": "object", "required": ["a"]}]}, '{"a": 1}', {"a": 1}),
        ({"type": "integer", "minimum": 10}, "5", 5),
        ({"minimum": 3}, "1", "1"),
        ({}, "5", 5),
        ({}, '"a"', "a"),
        ({}, "a", "a"),
        (True, "[1]", [1]),
        (None, "null", None),
        ({"type": "unheard of"}, "5", 5),
    ],
    ids=lambda value: str(value)[:40],
)
def test_argument_json_follows_schema(schema: Any, text: str, value: Any) -> None:
    found = value_of(text, schema)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("schema", [{}, {"type": "array"}, STRING_OR_MORE, {"enum": [[[]]]}])
@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("(", ")"), ("['", "']"), ("-", "")]
)
def test_argument_json_keeps_too_deep_value_as_text(schema: Any, opening: str, closing: str) -> None:
    text = opening * 50_000 + "1" + closing * 50_000
    assert value_of(text, schema) == text


def test_argument_json_reads_value_of_maximum_depth() -> None:
    text = "[" * MAX_JSON_DEPTH + '"]][["' + "]" * MAX_JSON_DEPTH
    assert isinstance(value_of(text, {"type": "array"}), list)
    assert value_of(f"[{text}]", {"type": "array"}) == f"[{text}]"


def test_argument_json_ignores_brackets_in_strings() -> None:
    value = ["[" * 1000, '\\"[' * 1000]
    assert value_of(json.dumps(value), {"type": "array"}) == value


def test_argument_json_keeps_long_python_literal_as_text() -> None:
    text = "[" + "'a', " * MAX_PYTHON_LITERAL + "]"
    assert value_of(text, {"type": "array"}) == text


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(anything.filter(lambda value: not isinstance(value, str)))
def test_argument_json_round_trips_json(value: Any) -> None:
    for schema in ({}, {"type": ["object", "array", "number", "boolean", "null"]}):
        assert value_of(json.dumps(value), schema) == value


@given(st.text())
def test_argument_json_round_trips_string(text: str) -> None:
    assert value_of(text, {"type": "string"}) == text


class TestReferences:
    def admits(self, root: dict[str, Any], text: str, name: str = "a") -> Any:
        return json.loads(ParameterSchema(root).argument_json(name, text))

    @pytest.mark.parametrize(
        "reference", ["#/$defs/x~1y", "#/$defs/x%7E1y", "#/properties/b", "#/$defs/list/0"]
    )
    def test_parameters_follow_local_references(self, reference: str) -> None:
        string = {"type": "string"}
        root = {
            "properties": {"a": {"$ref": reference}, "b": string},
            "$defs": {"x/y": {"$ref": "#/properties/b"}, "list": [string]},
        }
        assert self.admits(root, "5") == "5"

    @pytest.mark.parametrize(
        "reference", ["#/nowhere", "#/$defs/list/9", "http://x/y", "#/properties/a", 3, "#"]
    )
    def test_parameters_ignore_other_references(self, reference: Any) -> None:
        root = {"properties": {"a": {"$ref": reference}}, "$defs": {"list": []}}
        assert self.admits(root, "5") == 5

    def test_parameters_ignore_circular_references(self) -> None:
        definitions = {"x": {"anyOf": [{"$ref": "#/$defs/y"}]}, "y": {"allOf": [{"$ref": "#/$defs/x"}]}}
        root = {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": definitions}
        assert self.admits(root, "5") == 5

    def test_parameters_read_multiplying_references_once(self) -> None:
        definitions: dict[str, Any] = {
            f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(60)
        }
        root = {
            "properties": {"a": {"$ref": "#/$defs/d0"}},
            "$defs": definitions | {"d60": {"type": "string"}},
        }
        assert self.admits(root, "5") == "5"

    def test_parameters_survive_deeply_nested_combinators(self) -> None:
        schema: Any = {"type": "string"}
        for _ in range(5000):
            schema = {"anyOf": [schema]}
        assert self.admits({"properties": {"a": schema}}, "text") == "text"
        assert self.admits({"allOf": [schema], "properties": {"a": {}}}, "text") == "text"

    @pytest.mark.parametrize(
        "root",
        [
            {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}}]},
            {
                "anyOf": [
                    {"properties": {"b": {"type": "integer"}}},
                    {"properties": {"a": {"type": "string"}}},
                ]
            },
            {"$ref": "#/$defs/all", "$defs": {"all": {"properties": {"a": {"type": "string"}}}}},
            {"properties": {}, "additionalProperties": {"type": "string"}},
            {"properties": {"a": {"allOf": [{"type": ["string", "integer"]}, {"type": ["string", "null"]}]}}},
            {"properties": {"a": {"type": ["string", "integer"], "enum": ["5", 6], "const": "5"}}},
            {"properties": {"a": {"oneOf": [{"enum": ["5"]}, {"type": "string"}]}}},
        ],
    )
    def test_parameters_find_argument_wherever_it_is_declared(self, root: dict[str, Any]) -> None:
        assert self.admits(root, "5") == "5"

    def test_parameters_read_number_and_integer_as_integer(self) -> None:
        both = {"allOf": [{"type": "number"}, {"type": "integer"}]}
        assert repr(self.admits({"properties": {"a": both}}, "3.0")) == "3"

    def test_parameters_ignore_contradiction(self) -> None:
        never = {"allOf": [{"type": "string"}, {"type": "integer"}]}
        assert self.admits({"properties": {"a": never}}, "5") == 5

    def test_parameters_infer_object_and_array(self) -> None:
        assert self.admits({"properties": {"a": {"properties": {"b": {}}}}}, "{'b': 1}") == {"b": 1}
        assert self.admits({"properties": {"a": {"items": {}}}}, "('b',)") == ["b"]


@pytest.mark.parametrize("text", ["1.50", "1e3", "-0.0", "2.5E-2"])
@pytest.mark.parametrize("schema", [{"type": "number"}, {}, {"type": ["number", "null"]}])
def test_argument_json_keeps_literal_of_number(schema: Any, text: str) -> None:
    parameters = ParameterSchema({"type": "object", "properties": {"a": schema}})
    assert parameters.argument_json("a", text) == parameters.argument_json("a", f" {text}\n") == text
