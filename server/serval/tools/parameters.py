"""Lookup of a tool's arguments in its `parameters` schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serval.schema.allowed_types import UNKNOWN, AllowedTypes, AllowedTypesReader
from serval.schema.json_schema import branches, target_of
from serval.schema.validity import is_valid
from serval.tools.values import argument_json


class ParameterSchema:
    """Finds the schema of each argument of one tool. Follows local references only."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._reader = AllowedTypesReader(root)
        self._found: dict[str, tuple[Any, AllowedTypes]] = {}

    def declares(self, name: str) -> bool:
        """Return True if the schema has a property of exactly this name."""
        return self._schema_of(name, declared_only=True) is not None

    def takes_only_text(self, name: str) -> bool:
        """Return True if any text is a valid value, so that it can be passed on as it arrives."""
        return self._argument(name)[1].only_text

    def argument_json(self, name: str, text: str) -> str:
        """Return the JSON for argument `name`, which the model wrote as `text`."""
        schema, allowed = self._argument(name)
        return argument_json(text, allowed, lambda value: is_valid(value, schema, self._root))

    def _argument(self, name: str) -> tuple[Any, AllowedTypes]:
        if name not in self._found:
            schema = self._schema_of(name, declared_only=False)
            try:
                self._found[name] = (schema, self._reader.read(schema))
            except RecursionError:  # hundreds of nested combinators; `schema_check` refuses these
                self._found[name] = (None, UNKNOWN)
        return self._found[name]

    def _schema_of(self, name: str, *, declared_only: bool) -> Any:
        try:
            return self._property(self._root, name, set(), declared_only=declared_only)
        except RecursionError:
            return None

    def _property(self, schema: Any, name: str, visited: set[int], *, declared_only: bool) -> Any:
        """Return the schema that `schema` has for its property `name`; None if it does not mention it."""
        if not isinstance(schema, Mapping) or id(schema) in visited:
            return None
        visited.add(id(schema))
        applicable: list[Any] = []
        properties, others = schema.get("properties"), schema.get("additionalProperties")
        if isinstance(properties, Mapping) and name in properties:
            applicable.append(properties[name])
        elif not declared_only and isinstance(others, Mapping) and "patternProperties" not in schema:
            applicable.append(others)
        for part in (*branches(schema, "allOf"), target_of(schema, self._root)):
            applicable.append(self._property(part, name, visited, declared_only=declared_only))
        for keyword in ("anyOf", "oneOf"):
            mentions = [
                self._property(part, name, visited, declared_only=declared_only)
                for part in branches(schema, keyword)
            ]
            # A branch that does not mention the argument leaves it to the others.
            if any(mention is not None for mention in mentions):
                applicable.append({"anyOf": [mention for mention in mentions if mention is not None]})
        applicable = [each for each in applicable if each is not None]
        return applicable[0] if len(applicable) == 1 else {"allOf": applicable} if applicable else None
