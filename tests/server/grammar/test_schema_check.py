"""Schemas that are refused before dispatch, with path and reason, and rewriting of the others."""

from typing import Any

import pytest

from serval.errors import ServalError
from serval.grammar.compile_cost import Budget
from serval.grammar.schema_check import (
    MAX_LISTED_VALUES,
    MAX_SCHEMA_DEPTH,
    MAX_SCHEMA_PARTS,
    check_limits,
    check_tools,
    enforceable_schema,
)
from serval.schema.error import SchemaError


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


class TestLimits:
    def test_limits_allow_schema_at_limit(self) -> None:
        check_limits(nested(MAX_SCHEMA_DEPTH))
        check_limits({"enum": list(range(MAX_LISTED_VALUES))})

    @pytest.mark.parametrize("depth", [MAX_SCHEMA_DEPTH + 1, 100_000])
    def test_limits_refuse_too_deep_schema(self, depth: int) -> None:
        with pytest.raises(SchemaError, match="nested deeper than 64") as caught:
            check_limits(nested(depth), "p")
        assert caught.value.path == "p" + "/items" * (MAX_SCHEMA_DEPTH + 1)

    def test_limits_refuse_too_many_parts(self) -> None:
        with pytest.raises(SchemaError, match="more than 20000 parts"):
            check_limits({"required": [str(number) for number in range(MAX_SCHEMA_PARTS)]})

    def test_limits_refuse_too_many_listed_values(self) -> None:
        half = {"enum": list(range(MAX_LISTED_VALUES // 2 + 1))}
        with pytest.raises(SchemaError, match="values are listed") as caught:
            check_limits({"properties": {"a": half, "b/c": half}})
        assert caught.value.path in ("#/properties/a/enum", "#/properties/b~1c/enum")

    def test_limits_name_tool_in_path(self) -> None:
        tool = {"type": "function", "function": {"name": "f", "parameters": nested(100)}}
        with pytest.raises(ServalError, match="tools/f/parameters/items"):
            check_tools([{"function": None}, tool])


# Checking its ambiguity would take seconds.
MANY_WORDS = "|".join(f"{a}{b}{c}" for a in "abcdefghijkl" for b in "mnopqrstuvwx" for c in "ABC")


def refused(schema: Any) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        enforceable_schema(schema, strict=True, avoid="<", budget=Budget())
    return caught.value


class TestStrict:
    @pytest.mark.parametrize(
        ("schema", "path"),
        [
            ({"properties": {"a": {"multipleOf": 86_413, "type": "integer"}}}, "#/properties/a/multipleOf"),
            ({"type": "string", "minLength": 10_001}, "#/minLength"),
            ({"type": "array", "items": {"not": {}}}, "#/items/not"),
            ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
            ({"type": "array", "contains": {"type": "null"}}, "#/contains"),
            ({"if": {}, "then": {}}, "#/if"),
            ({"type": "object", "dependentRequired": {"a": ["b"]}}, "#/dependentRequired"),
            ({"type": "object", "propertyNames": {"maxLength": 3}}, "#/propertyNames"),
            ({"type": "object", "minProperties": 2}, "#/minProperties"),
            ({"properties": {"a": {}}, "patternProperties": {"b": {}}}, "#/patternProperties"),
            ({"type": "string", "pattern": "^abcd$", "maxLength": 3}, "#/pattern"),
            ({"type": "string", "pattern": "a1b2", "format": "uri"}, "#/pattern"),
            ({"type": "string", "pattern": "(?=a)b"}, "#/pattern"),
            ({"type": "string", "pattern": "(a)\\1"}, "#/pattern"),
            ({"type": "string", "pattern": "a\\b"}, "#/pattern"),
            ({"type": "string", "pattern": "\\p{L}"}, "#/pattern"),
            ({"type": "string", "pattern": "["}, "#/pattern"),
            ({"type": "string", "pattern": "(a"}, "#/pattern"),
            ({"type": "string", "pattern": "a)"}, "#/pattern"),
            ({"type": "string", "pattern": "*"}, "#/pattern"),
            ({"type": "string", "pattern": "a^b"}, "#/pattern"),
            ({"type": "string", "pattern": "a**"}, "#/pattern"),
            ({"type": "string", "pattern": "a{2,1}"}, "#/pattern"),
            ({"type": "string", "pattern": "[b-a]"}, "#/pattern"),
            ({"type": "string", "pattern": "\\u12"}, "#/pattern"),
            ({"type": "string", "pattern": "(" * 100_000}, "#/pattern"),
            ({"type": "string", "pattern": "(a{1000}){1000}"}, "#/pattern"),
            ({"type": "string", "pattern": r"^(\w+\s?)+$"}, "#/pattern"),
            ({"type": "string", "pattern": "^([a-z]+|-)+$"}, "#/pattern"),
            ({"type": "string", "pattern": "^((a*)*)*b$"}, "#/pattern"),
            ({"type": "string", "pattern": "^(a|a)*$"}, "#/pattern"),
            ({"type": "string", "pattern": "^([a-z]?){1000}$"}, "#/pattern"),
            ({"type": "string", "pattern": MANY_WORDS}, "#/pattern"),
            ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf"),
            ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "#/allOf/1/pattern"),
        ],
    )
    def test_unenforceable_keyword_is_refused_only_if_strict(self, schema: Any, path: str) -> None:
        error = refused(schema)
        assert error.path == path
        assert "do not ask for strict" in str(error)
        enforceable_schema(schema, strict=False, avoid="<", budget=Budget())

    @pytest.mark.parametrize(
        ("schema", "complaint"),
        [
            (3, "not 3"),
            ({"type": "str"}, "'str' is no JSON type"),
            ({"enum": "a"}, "enum is a list"),
            ({"properties": []}, "properties is an object"),
            ({"required": ["a", []]}, "required lists names"),
            ({"type": "integer", "minimum": "3"}, "minimum is a number"),
            ({"$ref": "#/nowhere"}, "leads nowhere"),
            ({"$ref": "https://elsewhere/schema"}, "leads nowhere"),
            ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
            ({"$ref": "#"}, "refers to itself"),
            ({"anyOf": []}, "anyOf is empty"),
            ({"type": "integer", "multipleOf": 0}, "multipleOf is above 0"),
        ],
        ids=lambda value: str(value)[:50],
    )
    def test_invalid_part_is_refused_only_if_strict(self, schema: Any, complaint: str) -> None:
        with pytest.raises(SchemaError, match=complaint):
            enforceable_schema(schema, strict=True, avoid="<", budget=Budget())
        enforceable_schema(schema, strict=False, avoid="<", budget=Budget())

    @pytest.mark.parametrize("strict", [True, False])
    @pytest.mark.parametrize(
        ("schema", "complaint"),
        [
            (False, "admits no value"),
            ({"type": "integer", "minimum": 3, "maximum": 2}, "no integer"),
            ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}, "no integer"),
            ({"type": "number", "exclusiveMinimum": 3, "maximum": 3}, "no number"),
            ({"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 10}, "no multiple"),
            ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength is greater"),
            ({"type": "array", "minItems": 2, "prefixItems": [{}], "items": False}, "minItems is greater"),
            (
                {"type": "object", "required": ["a"], "additionalProperties": False},
                "required and not allowed",
            ),
            ({"enum": [1, 2], "type": "string"}, "admits no value"),
            ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "admits no value"),
            ({"anyOf": [False, {"enum": []}]}, "admits no value"),
        ],
        ids=lambda value: str(value)[:50],
    )
    def test_unsatisfiable_schema_is_always_refused(self, schema: Any, complaint: str, strict: bool) -> None:
        with pytest.raises(SchemaError, match=complaint):
            enforceable_schema(schema, strict=strict, avoid="<", budget=Budget())

    @pytest.mark.parametrize("bound", [5e-324, 1e300, -1e300])
    def test_numbers_with_extreme_bounds_are_refused_in_time(self, bound: float) -> None:
        numbers = {
            f"p{more}": {"type": "number", "minimum": bound, "maximum": 1e308 + more * 1e300}
            for more in range(200)
        }
        assert "too expensive" in str(refused({"properties": numbers}))

    def test_multiplying_schema_is_refused_in_time(self) -> None:
        choice = {"anyOf": [{"minimum": number} for number in range(10)]}
        assert "unfolds to more than" in str(refused({"type": "number", "allOf": [choice] * 10}))
        doubling: dict[str, Any] = {
            f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(40)
        }
        refused({"$ref": "#/$defs/d0", "$defs": {**doubling, "d40": {}}})

    def test_recursion_through_property_is_kept(self) -> None:
        tree = {"type": "object", "properties": {"child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
        enforced = enforceable_schema(tree, strict=True, avoid="<", budget=Budget())
        assert enforced["$defs"]["d0"]["properties"]["child"] == {
            "anyOf": [{"$ref": "#/$defs/d0"}, {"type": "null"}]
        }

    @pytest.mark.parametrize(
        ("schema", "enforced"),
        [
            ({"type": "integer", "title": "t", "default": 3, "x-y": 1}, {"type": "integer"}),
            (
                {"type": "integer", "minimum": 1.5, "exclusiveMaximum": 4},
                {"type": "integer", "minimum": 2, "maximum": 3},
            ),
            ({"type": "number", "multipleOf": 1}, {"type": "integer"}),
            ({"type": ["integer", "number"]}, {"type": "number"}),
            ({"type": "integer", "minimum": -(10**30)}, {"type": "integer", "minimum": -(2**63) + 1}),
            ({"enum": [1, "a", None], "type": ["string", "null"]}, {"enum": ["a", None]}),
            ({"const": 3}, {"enum": [3]}),
            ({"anyOf": [{"type": "null"}, False]}, {"type": "null"}),
            (
                {"allOf": [{"minimum": 1}, {"type": "integer", "minimum": 2}]},
                {"type": "integer", "minimum": 2},
            ),
            (
                {"oneOf": [{"type": "string"}, {"type": "null"}]},
                {"anyOf": [{"type": "string"}, {"type": "null"}]},
            ),
            (
                {"type": "array", "items": [{"type": "null"}], "additionalItems": False},
                {"type": "array", "items": False, "prefixItems": [{"type": "null"}]},
            ),
            (
                {"properties": {"a": {"type": "null"}, "never": False}, "required": ["b"]},
                {
                    "type": "object",
                    "properties": {"a": {"type": "null"}, "b": {}},
                    "required": ["b"],
                    "additionalProperties": False,
                },
            ),
            (
                {"type": "object", "additionalProperties": {"type": "null"}},
                {"type": "object", "additionalProperties": {"type": "null"}},
            ),
        ],
        ids=lambda value: str(value)[:50],
    )
    def test_enforceable_schema_is_rewritten(self, schema: Any, enforced: Any) -> None:
        assert enforceable_schema(schema, strict=True, avoid="<", budget=Budget()) == enforced

    def test_one_of_branches_with_distinct_listed_values_are_exclusive(self) -> None:
        def shape(kind: str) -> dict[str, Any]:
            return {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}

        enforceable_schema(
            {"oneOf": [shape("circle"), shape("square")]}, strict=True, avoid="<", budget=Budget()
        )
        assert refused({"oneOf": [shape("circle"), shape("circle")]}).path == "#/oneOf"
