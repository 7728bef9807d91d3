"""Rewriting JSON Schemas into a form that xgrammar 0.2.7 enforces completely.

xgrammar ignores some keywords, follows only one of several others at a time, and closes objects to
undeclared properties. The decoder must admit only valid values, so a schema is rewritten with the few
keywords that xgrammar does follow, at worst admitting fewer values. A keyword that cannot be rewritten is an
error if the schema is `strict`, and is left out otherwise.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import combinations
from typing import Any, Final, TypeVar

from serval.grammar.compile_cost import LISTED_VALUE, PART, Budget
from serval.grammar.constraints import (
    COMBINATORS,
    KEYWORDS_OF_TYPE,
    OTHERS,
    Schema,
    conjunction,
    constraints_of,
)
from serval.grammar.enforceable_scalars import (
    WrittenPattern,
    rewritten_number,
    string_pattern,
    written_pattern,
)
from serval.grammar.number_rules import number_cost
from serval.schema.error import SchemaError, UnsatisfiableError
from serval.schema.json_schema import array_items, json_types, resolve_pointer, same_json
from serval.schema.validity import is_valid

Result = TypeVar("Result")

# Rewriting can multiply a schema (an allOf of anyOfs), and compiling takes time for each part.
MAX_UNFOLDED_PARTS: Final = 5_000
MAX_UNFOLDED_DEPTH: Final = 64
_REFERENCE: Final = re.compile(r'"\$ref": "#/\$defs/(d[0-9]+)"')
_NOT_ENFORCEABLE: Final = OTHERS | {
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "maxContains",
    "minContains",
    "unevaluatedItems",
}


class CircularSchemaError(SchemaError):
    """A reference that leads back to itself without any constraint on the way."""


class Rewriter:
    """Rewrites parts of one document. `definitions` collects the targets of `#/$defs/...` in the results.

    `avoid`: characters that patterns may write only where they name them explicitly. `budget`: what the
    schemas of the whole request may cost.
    """

    def __init__(self, root: Any, *, strict: bool, avoid: str, budget: Budget) -> None:
        self._root = root
        self.strict = strict
        self._budget = budget
        self.avoid = avoid
        self._names: dict[str, str] = {}
        self._parts = 0
        self.definitions: dict[str, Schema] = {}

    def nested(self, schema: Any, path: str, nesting: int = 0) -> Schema:
        """Rewrite `schema` for a value written in JSON.

        Raises SchemaError if it admits no value, has a reference that does not resolve, is too large, or is
        strict and cannot be enforced.
        """
        if schema is False:
            raise UnsatisfiableError(path)
        constraints = constraints_of(schema, path, strict=self.strict)
        if constraints.keys() == {"$ref"}:
            return self._reference(constraints["$ref"], path, nesting)
        for keyword in ("anyOf", "oneOf"):
            if constraints.keys() == {keyword}:
                self._check_exclusive(constraints, keyword, path)
                options = (
                    partial(self.nested, branch, f"{path}/{keyword}/{index}", nesting + 1)
                    for index, branch in enumerate(constraints[keyword])
                )
                return _any_of(satisfiable(options), path)
        singles = self.alternatives(schema, path, nesting)
        options = (partial(self.rewritten, single, path, nesting) for single in singles)
        return _any_of(satisfiable(options), path)

    def alternatives(self, schema: Any, path: str, nesting: int = 0) -> list[Schema]:
        """Split `schema` into alternatives. Each is `{}`, or has only `enum`, or is of one type."""
        try:
            flats = self._flattened(schema, path, nesting, ())
        except CircularSchemaError:
            if self.strict:
                raise
            return [{}]
        return [single for flat in flats for single in self._singles(flat, path)]

    def rewritten(self, single: Schema, path: str, nesting: int) -> Schema:
        """Rewrite one of `alternatives`."""
        match single.get("type"):
            case "string":
                return self._string(single, path)
            case "integer" | "number":
                number = rewritten_number(single, path, self.refuse)
                self._budget.spend(number_cost(number), path, once_for=repr(number))
                return number
            case "array":
                return self._array(single, path, nesting)
            case "object":
                return self._object(single, path, nesting)
        return single

    def pattern_of(self, single: Schema, path: str, *, in_json: bool) -> WrittenPattern | None:
        """Return one pattern for all constraints of a string; None if it is free."""
        written = string_pattern(
            single, path, self.refuse, self._budget.spend, avoid=self.avoid, in_json=in_json
        )
        return None if written is None else self.paid(written, path)

    def paid(self, written: WrittenPattern, path: str) -> WrittenPattern:
        """Spend what `written` costs, and return it. Raises SchemaError if less is left."""
        self._budget.spend(written.cost, path, once_for=written)
        return written

    def definitions_for(self, schema: Schema) -> dict[str, Schema]:
        """Return the definitions that `schema`, a result of this rewriter, refers to."""
        needed: dict[str, Schema] = {}
        unread = [schema]
        while unread:
            for name in _REFERENCE.findall(json.dumps(unread.pop())):
                if name not in needed:
                    needed[name] = self.definitions[name]
                    unread.append(self.definitions[name])
        return needed

    def refuse(self, path: str, keyword: str, reason: str = "") -> None:
        """Raise SchemaError for a keyword if the schema is strict; otherwise the caller leaves it out."""
        if self.strict:
            because = f": {reason}" if reason else ""
            raise SchemaError(
                f"{path}/{keyword}",
                f"{keyword} cannot be enforced while decoding{because}; change it, or do not ask for strict",
            )

    def _string(self, single: Schema, path: str) -> Schema:
        written = self.pattern_of(single, path, in_json=True)
        if written is None:
            return {"type": "string"}
        return {"type": "string", "pattern": written} if written else {"enum": [""]}

    def _count(self, path: str, nesting: int) -> None:
        self._parts += 1
        self._budget.spend(PART, path)
        if self._parts > MAX_UNFOLDED_PARTS:
            raise SchemaError(
                path, f"the schema unfolds to more than {MAX_UNFOLDED_PARTS} parts; make it smaller"
            )
        if nesting > MAX_UNFOLDED_DEPTH:
            raise SchemaError(
                path, f"nested deeper than {MAX_UNFOLDED_DEPTH} levels (or in itself); make it flatter"
            )

    def _flattened(self, schema: Any, path: str, nesting: int, seen: tuple[str, ...]) -> list[Schema]:
        """Like `alternatives`, but each may be of several types."""
        self._count(path, nesting)
        if schema is False:
            return []
        constraints = constraints_of(schema, path, strict=self.strict)
        flats = [{key: value for key, value in constraints.items() if key not in COMBINATORS}]
        reference = constraints.get("$ref")
        if reference is not None:
            target = self._resolved(reference, path, seen)
            flats = self._both(flats, self._flattened(target, path, nesting + 1, (*seen, reference)), path)
        for index, branch in enumerate(constraints.get("allOf", ())):
            below = f"{path}/allOf/{index}"
            flats = self._both(flats, self._flattened(branch, below, nesting + 1, seen), below)
        for keyword in ("anyOf", "oneOf"):
            if keyword in constraints:
                self._check_exclusive(constraints, keyword, path)
                options = [
                    flat
                    for index, branch in enumerate(constraints[keyword])
                    for flat in self._flattened(branch, f"{path}/{keyword}/{index}", nesting + 1, seen)
                ]
                flats = self._both(flats, options, path)
        return flats

    def _both(self, left: list[Schema], right: list[Schema], path: str) -> list[Schema]:
        """Return the alternatives for values that satisfy both one of `left` and one of `right`."""
        merged = []
        for first in left:
            for second in right:
                self._count(path, 0)
                both, conflicts = conjunction(first, second)
                for keyword in conflicts:
                    self.refuse(path, keyword, "it differs between schemas that must hold together")
                merged.append(both)
        return merged

    def _singles(self, flat: Schema, path: str) -> list[Schema]:
        """Split `flat` by type. Constraints on a type imply that type: values of other types are left out."""
        for keyword in _NOT_ENFORCEABLE & flat.keys():
            self.refuse(path, keyword)
        rest = {key: value for key, value in flat.items() if key not in _NOT_ENFORCEABLE}
        if "enum" in rest:
            for keyword in {"pattern", "patternProperties"} & rest.keys():
                self.refuse(path, keyword, "it stands beside listed values")
            others = {key: value for key, value in rest.items() if key not in ("enum", "type")}
            checked = others | ({"type": sorted(rest["type"])} if "type" in rest else {})
            self._budget.spend(LISTED_VALUE * len(rest["enum"]), path)
            values = [value for value in rest["enum"] if is_valid(value, checked, self._root)]
            return [{"enum": values}] if values else []
        types = rest.get("type")
        if types is None:
            types = {name for name, keywords in KEYWORDS_OF_TYPE.items() if keywords & rest.keys()}
            if not types:
                return [{}]
        if "number" in types:
            types = types - {"integer"}
        return [
            {"type": name} | {key: rest[key] for key in KEYWORDS_OF_TYPE[name] & rest.keys()}
            for name in sorted(types)
        ]

    def _resolved(self, reference: str, path: str, seen: tuple[str, ...] = ()) -> Any:
        """Return the target of a reference that was followed through `seen`.

        If it leads nowhere, raises SchemaError if the schema is strict, and returns a schema for any value
        otherwise.
        """
        if reference in seen:
            raise CircularSchemaError(
                f"{path}/$ref", f"{reference!r:.120} refers to itself and to nothing else"
            )
        target = resolve_pointer(self._root, reference) if reference.startswith("#") else None
        if target is None and self.strict:
            raise SchemaError(
                f"{path}/$ref", f"{reference!r:.120} leads nowhere; only references into the same schema work"
            )
        return True if target is None else target

    def _reference(self, reference: str, path: str, nesting: int) -> Schema:
        name = self._names.get(reference)
        if name is None:
            target = self._resolved(reference, path)
            try:
                self._flattened({"$ref": reference}, path, nesting, ())
            except CircularSchemaError:
                if self.strict:
                    raise
                return {}
            name = self._names[reference] = f"d{len(self._names)}"
            self.definitions[name] = self.nested(target, reference, nesting + 1)
        return {"$ref": f"#/$defs/{name}"}

    def _check_exclusive(self, constraints: Schema, keyword: str, path: str) -> None:
        """Refuse branches of `oneOf` that overlap: xgrammar treats it as `anyOf`."""
        if keyword != "oneOf" or not self.strict:
            return
        branches = [self._flattened(branch, path, 0, ()) for branch in constraints["oneOf"]]
        for left, right in combinations(branches, 2):
            if not all(self._disjoint(first, second) for first in left for second in right):
                self.refuse(path, "oneOf", "two of its branches may admit the same value; use anyOf")

    def _disjoint(self, left: Schema, right: Schema) -> bool:
        left_types, right_types = _types_of(left), _types_of(right)
        if left_types and right_types and not left_types & right_types:
            return True
        if "enum" in left and "enum" in right:
            return not any(same_json(one, other) for one in left["enum"] for other in right["enum"])
        if left_types != {"object"} or right_types != {"object"}:
            return False
        return any(
            self._listed_apart(left["properties"][name], right["properties"][name])
            for name in left.get("required", ())
            if name in right.get("required", ())
            and name in left.get("properties", {})
            and name in right.get("properties", {})
        )

    def _listed_apart(self, left: Any, right: Any) -> bool:
        both = [
            constraints_of(schema, "", strict=self.strict)
            for schema in (left, right)
            if isinstance(schema, Mapping)
        ]
        return len(both) == 2 and "enum" in both[0] and "enum" in both[1] and self._disjoint(*both)

    def _array(self, single: Schema, path: str, nesting: int) -> Schema:
        prefix, rest = array_items(single)
        if single.get("uniqueItems") is True and single.get("maxItems", math.inf) > 1:
            self.refuse(path, "uniqueItems")
        least, most = single.get("minItems", 0), single.get("maxItems", math.inf)
        if least > (min(most, len(prefix)) if rest is False else most):
            raise UnsatisfiableError(path, "minItems is greater than the number of items allowed")
        array: Schema = {"type": "array", "items": False}
        if rest is not False:
            array["items"] = self.nested(rest, f"{path}/items", nesting + 1) or True
        if most < len(prefix):
            prefix, array["items"] = prefix[: int(most)], False
        if prefix:
            array["prefixItems"] = [
                self.nested(part, f"{path}/prefixItems/{index}", nesting + 1)
                for index, part in enumerate(prefix)
            ]
        return array | {key: single[key] for key in ("minItems", "maxItems") if key in single}

    def _object(self, single: Schema, path: str, nesting: int) -> Schema:
        properties = self.properties(single, path)
        if not properties:
            return self._map(single, path, nesting)
        required = [name for name in properties if name in single.get("required", ())]
        closed = {}
        for name, part in properties.items():
            try:
                closed[name] = self.nested(part, f"{path}/properties/{pointer_part(name)}", nesting + 1)
            except UnsatisfiableError:
                if name in required:
                    raise
        return {"type": "object", "properties": closed, "required": required, "additionalProperties": False}

    def properties(self, single: Schema, path: str) -> dict[str, Any]:
        """Return the properties an object may have: the declared ones, and those that are only required."""
        others = single.get("additionalProperties", True)
        properties = {name: part for name, part in single.get("properties", {}).items() if part is not False}
        for name in single.get("required", ()):
            if name not in properties:
                if others is False or name in single.get("properties", {}):
                    raise UnsatisfiableError(f"{path}/required", f"{name!r:.80} is required and not allowed")
                properties[name] = others
        if properties:
            for keyword in {"patternProperties", "propertyNames"} & single.keys():
                self.refuse(path, keyword, "it stands beside properties")
            if single.get("minProperties", 0) > len(single.get("required", ())):
                self.refuse(path, "minProperties", "it stands beside properties; list them in required")
            if single.get("maxProperties", math.inf) < len(properties):
                self.refuse(path, "maxProperties", "it is less than the number of properties")
        return properties

    def _map(self, single: Schema, path: str, nesting: int) -> Schema:
        """Rewrite an object without named properties. Keys may repeat, so minProperties over 1 is refused."""
        others, patterns = single.get("additionalProperties", True), dict(single.get("patternProperties", {}))
        if (
            isinstance(names := single.get("propertyNames"), Mapping)
            and names.keys() == {"pattern"}
            and not patterns
        ):
            patterns = {names["pattern"]: others}
        elif "propertyNames" in single:
            self.refuse(path, "propertyNames", "only a pattern is")
        if single.get("minProperties", 0) > 1:
            self.refuse(path, "minProperties", "more than 1 is, only with required")
        if single.get("minProperties", 0) > single.get("maxProperties", math.inf):
            raise UnsatisfiableError(path, "minProperties is greater than maxProperties")
        counts = {key: single[key] for key in ("minProperties", "maxProperties") if key in single}
        if not patterns:
            if others is False:
                return {"type": "object", "properties": {}, "additionalProperties": False}
            values = self.nested(others, f"{path}/additionalProperties", nesting + 1)
            return {"type": "object", "additionalProperties": values or True} | counts
        if len(patterns) > 1:
            self.refuse(path, "patternProperties", "one pattern is, several may meet in one name")
        (key, part), *_ = patterns.items()
        values = self.nested(part, f"{path}/patternProperties/{pointer_part(key)}", nesting + 1)
        expression = written_pattern(
            key, f"{path}/patternProperties", self.refuse, self._budget.spend, avoid=self.avoid
        )
        if expression is None:
            return {"type": "object"}
        self.paid(expression, path)
        return {
            "type": "object",
            "patternProperties": {expression: values},
            "additionalProperties": False,
        } | counts


def satisfiable(options: Iterable[Callable[[], Result]]) -> list[Result]:
    """Return the results of the satisfiable options; raise the last error if there are none."""
    found = []
    nothing: UnsatisfiableError | None = None
    for option in options:
        try:
            found.append(option())
        except UnsatisfiableError as error:
            nothing = error
    if nothing is not None and not found:
        raise nothing
    return found


def pointer_part(name: str) -> str:
    """Escape `name` as a step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _any_of(options: list[Schema], path: str) -> Schema:
    if not options:
        raise UnsatisfiableError(path)
    return options[0] if len(options) == 1 else {"anyOf": options}


def _types_of(flat: Schema) -> frozenset[str]:
    if "enum" in flat:
        return frozenset().union(*map(json_types, flat["enum"]))
    types: frozenset[str] = flat.get("type", frozenset())
    return types | {"integer"} if "number" in types else types
