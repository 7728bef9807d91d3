"""Bounds on the size of a JSON Schema."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serval.schema.error import SchemaError

MAX_SCHEMA_DEPTH: Final = 64
MAX_SCHEMA_PARTS: Final = 20_000


def check_schema_size(schema: Mapping[str, Any] | None) -> None:
    """Raise `SchemaError` if a schema is too deep, or has too many objects, lists and values.

    Takes linear time and does not recurse.
    """
    level: Sequence[Any] = [schema]
    parts = 1
    for _ in range(MAX_SCHEMA_DEPTH + 1):
        level = [part for node in level if type(node) in _CHILDREN for part in _CHILDREN[type(node)](node)]
        parts += len(level)
        if parts > MAX_SCHEMA_PARTS:
            raise SchemaError("", f"the schema has more than {MAX_SCHEMA_PARTS} parts; make it smaller")
        if not level:
            return
    raise SchemaError("", f"nested deeper than {MAX_SCHEMA_DEPTH} levels; make it flatter")


_CHILDREN: Final[Mapping[type, Any]] = {dict: dict.values, list: iter}
