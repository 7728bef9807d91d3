"""Validation of a decoded value against a JSON Schema, limited to checks that are cheap."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from serval.schema import strict_json
from serval.schema.json_schema import (
    array_items,
    branches,
    is_number,
    json_types,
    same_json,
    target_of,
)

# Nested alternatives can take exponential time. Beyond this many steps a value counts as valid.
MAX_STEPS: Final = 20_000
_MAX_VALIDATION_DEPTH: Final = 2 * strict_json.MAX_JSON_DEPTH
# Keywords that restrict a value and are not checked.
_UNCHECKED: Final = frozenset(
    {
        "$dynamicRef", "contains", "dependencies", "dependentRequired", "dependentSchemas", "format", "if",
        "pattern", "patternProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip


def is_valid(value: Any, schema: Any, root: Any) -> bool:
    """Return False if `value` is certainly invalid against `schema`, whose references point into `root`.

    Checks types, listed values, bounds, lengths, items, properties and the combinators. Other keywords, such
    as `pattern` and `format`, count as satisfied; under `not` and `oneOf` they count as unknown. So a valid
    value is never refused, and a hostile pattern, which could take exponential time, is never run.
    """
    return _Validation(root).admits(value, schema, 0)


class _Validation:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0
        # Number of keywords that counted as satisfied without a check.
        self._assumed = 0

    def admits(self, value: Any, schema: Any, nesting: int) -> bool:
        self._steps += 1
        if schema is False:
            return False
        if self._steps > MAX_STEPS or nesting > _MAX_VALIDATION_DEPTH:
            self._assumed += 1
            return True
        if not isinstance(schema, Mapping):
            return True
        self._assumed += not _UNCHECKED.isdisjoint(schema)
        return (
            self._admits_type(value, schema)
            and self._admits_by_combination(value, schema, nesting + 1)
            and self._admits_parts(value, schema, nesting + 1)
        )

    def _admits_type(self, value: Any, schema: Mapping[str, Any]) -> bool:
        types = json_types(value)
        declared = schema.get("type")
        if declared is not None and not (schema.get("nullable") is True and value is None):
            names = declared if isinstance(declared, list) else [declared]
            if not types.intersection(name for name in names if isinstance(name, str)):
                return False
        listed = schema.get("enum")
        if isinstance(listed, list) and not any(same_json(value, choice) for choice in listed):
            return False
        return "const" not in schema or same_json(value, schema["const"])

    def _admits_by_combination(self, value: Any, schema: Mapping[str, Any], nesting: int) -> bool:
        target = target_of(schema, self._root)
        self._assumed += target is None and "$ref" in schema
        if target is not None and not self.admits(value, target, nesting):
            return False
        if not all(self.admits(value, branch, nesting) for branch in branches(schema, "allOf")):
            return False
        any_of = branches(schema, "anyOf")
        if any_of and not any(self.admits(value, branch, nesting) for branch in any_of):
            return False
        one_of = branches(schema, "oneOf")
        if one_of:
            possible, certain = self._count(value, one_of, nesting)
            if possible == 0 or certain > 1:
                return False
        return "not" not in schema or self._count(value, [schema["not"]], nesting)[1] == 0

    def _count(self, value: Any, schemas: list[Any], nesting: int) -> tuple[int, int]:
        """Count the schemas that the value may satisfy, and those that it certainly satisfies."""
        possible = certain = 0
        for schema in schemas:
            before = self._assumed
            if self.admits(value, schema, nesting):
                possible += 1
                certain += self._assumed == before
        return possible, certain

    def _admits_parts(self, value: Any, schema: Mapping[str, Any], nesting: int) -> bool:
        if isinstance(value, str):
            return _within(len(value), schema, "minLength", "maxLength")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _admits_number(value, schema)
        if isinstance(value, list):
            return self._admits_items(value, schema, nesting)
        if isinstance(value, Mapping):
            return self._admits_properties(value, schema, nesting)
        return True

    def _admits_items(self, value: list[Any], schema: Mapping[str, Any], nesting: int) -> bool:
        if not _within(len(value), schema, "minItems", "maxItems"):
            return False
        prefix, rest = array_items(schema)
        if not all(self.admits(item, part, nesting) for item, part in zip(value, prefix, strict=False)):
            return False
        if rest is not True and not all(self.admits(item, rest, nesting) for item in value[len(prefix) :]):
            return False
        return schema.get("uniqueItems") is not True or len(set(map(_canonical, value))) == len(value)

    def _admits_properties(self, value: Mapping[str, Any], schema: Mapping[str, Any], nesting: int) -> bool:
        required = schema.get("required")
        if isinstance(required, list) and not all(
            name in value for name in required if isinstance(name, str)
        ):
            return False
        if not _within(len(value), schema, "minProperties", "maxProperties"):
            return False
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        others: Any = schema.get("additionalProperties", True) if "patternProperties" not in schema else True
        return all(self.admits(part, properties.get(name, others), nesting) for name, part in value.items())


def _within(size: float, schema: Mapping[str, Any], least: str, most: str) -> bool:
    lower, upper = schema.get(least), schema.get(most)
    return not (is_number(lower) and size < lower) and not (is_number(upper) and size > upper)


def _admits_number(value: float, schema: Mapping[str, Any]) -> bool:
    if not _within(value, schema, "minimum", "maximum"):
        return False
    above, below, step = (schema.get(key) for key in ("exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
    if (is_number(above) and value <= above) or (is_number(below) and value >= below):
        return False
    return not is_number(step) or step <= 0 or _is_multiple(value, step)


def _is_multiple(value: float, step: float) -> bool:
    """Compare decimals, as they are written: 0.29 is a multiple of 0.01, although 0.29 / 0.01 is below 29."""
    return Fraction(str(value)) % Fraction(str(step)) == 0


def _canonical(value: Any) -> str:
    """Return a text that is equal for values that are equal in JSON."""
    match value:
        case list():
            return f"[{','.join(map(_canonical, value))}]"
        case Mapping():
            return f"{{{','.join(sorted(f'{key!r}:{_canonical(part)}' for key, part in value.items()))}}}"
        case float() if value.is_integer():
            return repr(int(value))
        case _:
            return repr(value)
