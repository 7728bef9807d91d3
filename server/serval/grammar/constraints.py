"""The constraining keywords of a JSON Schema, normalized, and the conjunction of two such sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serval.schema.error import SchemaError
from serval.schema.json_schema import ALL_TYPES, common_types, is_number, same_json

Schema = dict[str, Any]

STRING: Final = frozenset({"minLength", "maxLength", "pattern", "format"})
NUMBER: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
ARRAY: Final = frozenset(
    {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains"}
    | {"minContains", "maxContains", "unevaluatedItems"}
)
OBJECT: Final = frozenset(
    {"properties", "required", "additionalProperties", "patternProperties", "propertyNames"}
    | {"minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies"}
    | {"unevaluatedProperties"}
)
COMBINATORS: Final = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
OTHERS: Final = frozenset({"not", "if", "$dynamicRef", "$recursiveRef"})
_ALL: Final = STRING | NUMBER | ARRAY | OBJECT | COMBINATORS | OTHERS | {"type", "enum", "const"}

KEYWORDS_OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "string": STRING,
    "integer": NUMBER,
    "number": NUMBER,
    "boolean": frozenset(),
    "null": frozenset(),
    "array": ARRAY,
    "object": OBJECT,
}
_LEAST: Final = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_MOST: Final = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_LISTS: Final = frozenset({"anyOf", "oneOf", "allOf", "enum", "required", "prefixItems"})
_MAPS: Final = frozenset({"properties", "patternProperties", "dependentRequired", "dependentSchemas"})


def constraints_of(schema: Any, path: str, *, strict: bool) -> Schema:
    """Return the constraining keywords of `schema`, with `const` written as `enum`.

    Annotations, unknown keywords and keywords that admit everything are left out. If `schema` is not a schema
    or a keyword has a value of the wrong type, raises SchemaError if it is `strict`, and leaves that out
    otherwise. Does not handle the schema `false`.
    """
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        if not strict:
            return {}
        raise SchemaError(path, f"a schema is an object or a boolean, not {schema!r:.80}")
    found = {key: schema[key] for key in schema if key in _ALL and not _says_nothing(key, schema[key])}
    for keyword, value in list(found.items()):
        problem = _problem(keyword, value)
        if problem is not None and strict:
            raise SchemaError(f"{path}/{keyword}", problem)
        if problem is not None:
            del found[keyword]
    if "type" in found:
        found["type"] = frozenset(_names(found["type"]))
    if "const" in found:
        constant = found.pop("const")
        if all(same_json(constant, value) for value in found.get("enum", [constant])):
            found["enum"] = [constant]
        else:
            found["enum"] = [value for value in found["enum"] if same_json(constant, value)]
    return found


def conjunction(left: Schema, right: Schema) -> tuple[Schema, list[str]]:
    """Return one set equivalent to both, and the keywords that cannot be joined (kept from `left`)."""
    both, conflicts = left | right, []
    for keyword in left.keys() & right.keys():
        joined = _joined(keyword, left[keyword], right[keyword])
        both[keyword] = left[keyword] if joined is None else joined
        if joined is None:
            conflicts.append(keyword)
    if _closed_against(left, right) or _closed_against(right, left):
        conflicts.append("additionalProperties")
    if ("items" in left) != ("items" in right) and ("prefixItems" in left) != ("prefixItems" in right):
        conflicts.append("prefixItems")
    return both, conflicts


def _joined(keyword: str, left: Any, right: Any) -> Any:
    """Return a value of `keyword` equivalent to both values together; None if there is none."""
    joined: Any = left if left == right else None
    if keyword in _LEAST:
        joined = max(left, right)
    elif keyword in _MOST:
        joined = min(left, right)
    elif keyword == "type":
        joined = common_types(left, right)
    elif keyword == "enum":
        joined = [value for value in left if any(same_json(value, other) for other in right)]
    elif keyword == "required":
        joined = [*left, *(name for name in right if name not in left)]
    elif keyword == "properties":
        shared = {name: {"allOf": [left[name], right[name]]} for name in left.keys() & right.keys()}
        joined = left | right | shared
    elif keyword == "items" and not isinstance(left, list) and not isinstance(right, list):
        joined = {"allOf": [left, right]}
    return joined


def _says_nothing(keyword: str, value: Any) -> bool:
    if keyword in (
        "items",
        "additionalProperties",
        "additionalItems",
        "unevaluatedItems",
        "unevaluatedProperties",
    ):
        return value is True or value == {}
    if keyword == "propertyNames":
        return value is True or value in ({}, {"type": "string"})
    if keyword in ("required", "prefixItems", "dependentRequired", "dependentSchemas", "dependencies"):
        return not value
    if keyword in ("minLength", "minItems", "minProperties"):
        return bool(value == 0)
    return keyword == "uniqueItems" and value is False


def _problem(keyword: str, value: Any) -> str | None:
    """Return what is wrong with the value of a keyword; None if nothing is."""
    problem = None
    if keyword in _LISTS and not isinstance(value, list):
        problem = f"{keyword} is a list, not {value!r:.80}"
    elif keyword in _MAPS and not isinstance(value, Mapping):
        problem = f"{keyword} is an object, not {value!r:.80}"
    elif (keyword in _LEAST or keyword in _MOST or keyword == "multipleOf") and not is_number(value):
        problem = f"{keyword} is a number, not {value!r:.80}"
    elif keyword == "multipleOf" and value <= 0:
        problem = f"multipleOf is above 0, not {value!r:.80}"
    elif keyword in ("pattern", "format", "$ref") and not isinstance(value, str):
        problem = f"{keyword} is a string, not {value!r:.80}"
    elif keyword == "required" and not all(isinstance(name, str) for name in value):
        problem = f"required lists names, not {value!r:.80}"
    elif keyword in ("anyOf", "oneOf", "allOf") and not value:
        problem = f"{keyword} is empty; list at least one schema"
    elif keyword == "type":
        unknown = [name for name in _names(value) if not isinstance(name, str) or name not in ALL_TYPES]
        if unknown:
            known = ", ".join(sorted(ALL_TYPES))
            problem = f"{unknown[0]!r:.80} is no JSON type; use one of {known}"
    return problem


def _names(declared: Any) -> list[Any]:
    return declared if isinstance(declared, list) else [declared]


def _closed_against(one: Schema, other: Schema) -> bool:
    """Return True if `one` forbids or constrains properties that only `other` names."""
    if "additionalProperties" not in one and "patternProperties" not in one:
        return False
    known = set(one.get("properties", {}))
    return any(name not in known for name in (*other.get("properties", {}), *other.get("required", ())))
