"""Bounds on the size of a schema."""

from typing import Any

import pytest

from serval.schema.error import SchemaError
from serval.schema.size import MAX_SCHEMA_DEPTH, MAX_SCHEMA_PARTS, check_schema_size


def nested(depth: int, kind: str) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema} if kind == "objects" else [schema]
    return {"x": schema}


@pytest.mark.parametrize("kind", ["objects", "lists"])
def test_schema_size_bounds_depth(kind: str) -> None:
    check_schema_size(nested(MAX_SCHEMA_DEPTH - 1, kind))
    for depth in (MAX_SCHEMA_DEPTH, 900, 100_000):
        with pytest.raises(SchemaError, match="deeper than 64 levels"):
            check_schema_size(nested(depth, kind))


@pytest.mark.parametrize(
    "large",
    [
        {"required": ["x"] * MAX_SCHEMA_PARTS},
        {"x": [[]] * MAX_SCHEMA_PARTS},
        {"properties": {str(number): True for number in range(MAX_SCHEMA_PARTS)}},
        {"allOf": [{"enum": [1] * 9_000}] * 3},
    ],
    ids=["names", "brackets", "properties", "several lists"],
)
def test_schema_size_bounds_parts(large: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="more than 20000 parts"):
        check_schema_size(large)


def test_schema_size_allows_no_schema_and_usual_ones() -> None:
    check_schema_size(None)
    check_schema_size({"properties": {f"p{number}": {"type": "string"} for number in range(1000)}})
