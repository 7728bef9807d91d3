"""Validation of a value against a schema, compared with the `jsonschema` package."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serval.schema.validity import is_valid
from serval_testkit import json_schemas

values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -3, 5, 2.5, 10, 5.0])
    | st.sampled_from(["", "a", "null"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "content"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def mentions(schema: Any, keyword: str) -> bool:
    if isinstance(schema, dict):
        return keyword in schema or any(mentions(part, keyword) for part in schema.values())
    return isinstance(schema, list) and any(mentions(part, keyword) for part in schema)


@settings(max_examples=600, deadline=None)
@given(parameters=json_schemas.parameters, value=values)
def test_is_valid_agrees_with_jsonschema_and_never_refuses_valid_value(
    parameters: dict[str, Any], value: Any
) -> None:
    exact = not any(mentions(parameters, keyword) for keyword in ("pattern", "patternProperties", "format"))
    for schema in parameters["properties"].values():
        document = {**parameters, "properties": {"it": schema}, "required": ["it"]}
        truth = jsonschema.Draft202012Validator(document).is_valid({"it": value})
        found = is_valid(value, schema, parameters)
        assert found == truth if exact else found >= truth


@pytest.mark.parametrize(
    ("schema", "value", "valid"),
    [
        ({"multipleOf": 3}, 9, True),
        ({"multipleOf": 3}, 10, False),
        ({"multipleOf": 0.5}, 2.5, True),
        ({"multipleOf": 0.5}, 2.3, False),
        ({"multipleOf": 0.1}, 10**400, True),
        ({"uniqueItems": True}, [1, "1", [1], True], True),
        ({"uniqueItems": True}, [{"a": 1, "b": 2}, {"b": 2, "a": 1.0}], False),
        ({"not": {"type": "string"}}, "a", False),
        ({"not": {"type": "string", "pattern": "^b"}}, "a", True),
        ({"not": {"$ref": "#/nowhere"}}, "a", True),
        ({"oneOf": [{"type": "string"}, {"pattern": "^b"}]}, "a", True),
        ({"oneOf": [{"type": "string"}, {"pattern": "^b"}]}, 1, True),
        ({"oneOf": [{"type": "string"}, {"type": "string", "format": "date"}]}, 1, False),
        ({"oneOf": [{"type": "string"}, {"minLength": 1}, {"pattern": "^b"}]}, "a", False),
        ({"items": [{"type": "null"}], "additionalItems": False}, [None], True),
        ({"items": [{"type": "null"}], "additionalItems": False}, [None, None], False),
        ({"enum": [1]}, True, False),
        ({"enum": [1]}, 1.0, True),
        ({"type": "integer"}, 1.0, True),
        ({"type": "integer"}, True, False),
        (False, 1, False),
        ({"$ref": "http://elsewhere"}, 1, True),
        ({"pattern": "(a+)+$"}, "a" * 50 + "b", True),
    ],
)
def test_is_valid_checks_keyword(schema: Any, value: Any, *, valid: bool) -> None:
    assert is_valid(value, schema, schema) is valid


def test_is_valid_ends_in_time_for_multiplying_alternatives() -> None:
    tree = {
        "anyOf": [{"items": {"$ref": "#"}, "minItems": 1}, {"items": {"$ref": "#"}, "maxItems": 1}],
        "type": "array",
    }
    value: Any = [1, 2]
    for _ in range(100):
        value = [value]
    assert is_valid(value, tree, tree) is True


@pytest.mark.parametrize(
    ("value", "step", "multiple"),
    [
        (0.29, 0.01, True),
        (1.1, 0.1, True),
        (19.99, 0.01, True),
        (0.295, 0.01, False),
        (7, 2.5, False),
        (1e308, 0.1, True),
        (-15, 5, True),
    ],
)
def test_multiple_is_judged_by_decimals_as_written(value: float, step: float, multiple: bool) -> None:
    assert is_valid(value, {"multipleOf": step}, {}) == multiple
