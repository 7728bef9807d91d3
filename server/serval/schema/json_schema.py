"""Concepts of JSON Schema: types, equality, local references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeGuard
from urllib.parse import unquote

ALL_TYPES: Final = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})


def json_types(value: Any) -> frozenset[str]:
    """Return the JSON Schema types of a decoded value; an integer is a number too."""
    match value:
        case None:
            types = {"null"}
        case bool():
            types = {"boolean"}
        case int() | float():
            types = {"integer", "number"} if value == value // 1 else {"number"}
        case str():
            types = {"string"}
        case Mapping():
            types = {"object"}
        case _:
            types = {"array"}
    return frozenset(types)


def common_types(left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
    """Return the types in both; "number" and "integer" have the integers in common."""
    common = left & right
    if "integer" in left ^ right and "number" in left ^ right:
        common |= {"integer"}
    return common


def is_number(value: Any) -> TypeGuard[float]:
    """Return True for an integer or a float, but not for a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def same_json(left: Any, right: Any) -> bool:
    """Compare two values as JSON Schema does: 1 equals 1.0, but true equals neither."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
    return bool(left == right)


def resolve_pointer(root: Any, reference: str) -> Any:
    """Resolve a local reference (`#`, `#/$defs/a`; RFC 6901) in `root`; None if it does not resolve."""
    found = root
    for part in unquote(reference[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdecimal() and len(key) < 10 and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found


def branches(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    """Return the schemas under `keyword` (anyOf, oneOf, allOf); empty if it is missing or not a list."""
    found = schema.get(keyword)
    return found if isinstance(found, list) else []


def target_of(schema: Mapping[str, Any], root: Any) -> Any:
    """Return the target of `$ref`; None if there is no `$ref` or it leaves the document."""
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    return resolve_pointer(root, reference)


def array_items(schema: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """Return the schemas of an array's first items, and the schema of the remaining ones."""
    prefix, others = schema.get("prefixItems"), schema.get("items", True)
    if isinstance(others, list):  # the form up to draft 2019-09
        prefix, others = others, schema.get("additionalItems", True)
    return prefix if isinstance(prefix, list) else [], others
