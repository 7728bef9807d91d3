"""The JSON types and listed values that a schema admits, judged by its type keywords."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from serval.schema.json_schema import (
    ALL_TYPES,
    branches,
    common_types,
    json_types,
    same_json,
    target_of,
)

_STRING: Final = frozenset({"string"})


@dataclass(frozen=True, slots=True)
class AllowedTypes:
    """`types` is None if the schema does not restrict types; `choices` is None if it lists no values."""

    types: frozenset[str] | None = None
    choices: tuple[Any, ...] | None = None

    @property
    def only_text(self) -> bool:
        """True if every text is a valid value, so that it can be passed on before it is complete."""
        return self.types == _STRING and self.choices is None

    def allows_type_of(self, value: Any) -> bool:
        return self.types is None or bool(json_types(value) & self.types)


UNKNOWN: Final = AllowedTypes()


class AllowedTypesReader:
    """Reads the schemas of one document, each only once: references may multiply or be circular."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._read: dict[int, AllowedTypes] = {}

    def read(self, schema: Any) -> AllowedTypes:
        if not isinstance(schema, Mapping):
            return UNKNOWN
        if id(schema) not in self._read:
            self._read[id(schema)] = UNKNOWN  # the result for a circular reference
            self._read[id(schema)] = self._combined(schema)
        return self._read[id(schema)]

    def _combined(self, schema: Mapping[str, Any]) -> AllowedTypes:
        parts = [AllowedTypes(types=_declared_types(schema))]
        if isinstance(schema.get("enum"), list):
            parts.append(_one_of(schema["enum"]))
        if "const" in schema:
            parts.append(_one_of([schema["const"]]))
        parts.extend(map(self.read, branches(schema, "allOf")))
        for keyword in ("anyOf", "oneOf"):
            if alternatives := branches(schema, keyword):
                parts.append(_union(map(self.read, alternatives)))
        if (target := target_of(schema, self._root)) is not None:
            parts.append(self.read(target))
        allowed = _intersection(parts)
        if schema.get("nullable") is True and allowed.types is not None:
            choices = None if allowed.choices is None else (*allowed.choices, None)
            return AllowedTypes(types=allowed.types | {"null"}, choices=choices)
        return allowed


def _declared_types(schema: Mapping[str, Any]) -> frozenset[str] | None:
    declared = schema.get("type")
    names = declared if isinstance(declared, list) else [declared]
    types = frozenset(name for name in names if isinstance(name, str)) & ALL_TYPES
    if types:
        return types
    # Strictly speaking, these keywords admit values of any other type too, but authors never mean that.
    if isinstance(schema.get("properties"), Mapping):
        return frozenset({"object"})
    return frozenset({"array"}) if "items" in schema else None


def _one_of(values: list[Any]) -> AllowedTypes:
    return AllowedTypes(types=frozenset().union(*map(json_types, values)) or None, choices=tuple(values))


def _union(parts_allowed: Iterable[AllowedTypes]) -> AllowedTypes:
    types: frozenset[str] = frozenset()
    choices: tuple[Any, ...] | None = ()
    for allowed in parts_allowed:
        if allowed.types is None:
            return UNKNOWN
        types |= allowed.types
        choices = None if choices is None or allowed.choices is None else choices + allowed.choices
    return AllowedTypes(types=types, choices=choices)


def _intersection(parts_allowed: Iterable[AllowedTypes]) -> AllowedTypes:
    types: frozenset[str] | None = None
    choices: tuple[Any, ...] | None = None
    for allowed in parts_allowed:
        if allowed.types is not None:
            types = allowed.types if types is None else common_types(types, allowed.types)
        if allowed.choices is not None:
            choices = allowed.choices if choices is None else _common_choices(choices, allowed.choices)
    if types is not None and choices is not None:
        choices = tuple(value for value in choices if json_types(value) & types)
    return AllowedTypes(types=types, choices=choices)


def _common_choices(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value for value in left if any(same_json(value, other) for other in right))
