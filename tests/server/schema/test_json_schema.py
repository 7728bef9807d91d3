"""Concepts of JSON Schema."""

from typing import Any

import pytest

from serval.schema.json_schema import array_items, common_types, is_number


@pytest.mark.parametrize(
    ("left", "right", "common"),
    [
        ({"string", "null"}, {"null", "array"}, {"null"}),
        ({"number"}, {"integer"}, {"integer"}),
        ({"number"}, {"number", "integer"}, {"number"}),
        ({"string"}, {"array"}, set()),
    ],
)
def test_common_types_are_those_of_both(left: set[str], right: set[str], common: set[str]) -> None:
    assert common_types(frozenset(left), frozenset(right)) == common
    assert common_types(frozenset(right), frozenset(left)) == common


def test_is_number_excludes_booleans() -> None:
    assert [is_number(value) for value in (0, 1.5, True, "1", None)] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("schema", "prefix", "others"),
    [
        ({}, [], True),
        ({"items": False}, [], False),
        ({"prefixItems": [1], "items": {}}, [1], {}),
        ({"items": [1, 2]}, [1, 2], True),
        ({"items": [1], "additionalItems": False, "prefixItems": [3]}, [1], False),
    ],
)
def test_array_items_reads_old_and_new_form(schema: Any, prefix: list[Any], others: Any) -> None:
    assert array_items(schema) == (prefix, others)
