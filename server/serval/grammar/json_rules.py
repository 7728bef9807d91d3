"""JSON that a rewritten schema admits, as rules of xgrammar's EBNF.

xgrammar's own conversion of schemas cannot write long repetitions in the cheap way of `pattern_rules`, and
does not know `multipleOf`; schemas with either are converted here. The schemas are results of `Rewriter`, so
each part is `{}`, or has only `enum`, `anyOf` or `$ref`, or is of one type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from serval.grammar.constraints import Schema
from serval.grammar.enforceable_scalars import WrittenPattern
from serval.grammar.number_rules import number_rule
from serval.grammar.pattern_rules import (
    EMPTY,
    MAX_UNFOLDED,
    Rules,
    has_long_repetition,
    literal,
    pattern_rule,
    repeated,
)
from serval.schema import strict_json

_COUNTS: Final = ("minItems", "maxItems", "minProperties", "maxProperties")
_STRING: Final = (
    r'"\"" ([\u0020-\u0021\u0023-\u005b\u005d-\U0010ffff]'
    r' | "\\" ([\u0022\u005c\u002fbfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F]))* "\""'
)
_QUOTE: Final = r'"\""'


def needs_rules(schema: Any) -> bool:
    """Return True if xgrammar's own conversion would not enforce `schema`, or not in time."""
    if not isinstance(schema, Mapping):
        return False
    if "multipleOf" in schema or any(schema.get(count, 0) > MAX_UNFOLDED for count in _COUNTS):
        return True
    patterns = [*filter(None, [schema.get("pattern")]), *schema.get("patternProperties", {})]
    if any(isinstance(one, WrittenPattern) and has_long_repetition(one.node) for one in patterns):
        return True
    return any(map(needs_rules, _parts(schema)))


def json_rules(schema: Schema, definitions: Mapping[str, Schema], *, whitespace: int, avoid: str) -> str:
    """Return the grammar of JSON values of `schema`, whose references lead to `definitions`.

    `whitespace`: the most blanks between two tokens. `avoid`: as for `pattern.write`.
    """
    writer = _Writer(definitions, whitespace=whitespace, avoid=avoid)
    return writer.rules.text(writer.value(schema))


def _parts(schema: Mapping[str, Any]) -> Iterable[Any]:
    for keyword in ("anyOf", "prefixItems"):
        yield from schema.get(keyword, ())
    for keyword in ("properties", "patternProperties", "$defs"):
        yield from schema.get(keyword, {}).values()
    yield from (schema[keyword] for keyword in ("items", "additionalProperties") if keyword in schema)


class _Writer:
    def __init__(self, definitions: Mapping[str, Schema], *, whitespace: int, avoid: str) -> None:
        self.rules = Rules()
        self._definitions = definitions
        self._defined: dict[str, str] = {}
        self._avoid = avoid
        self._blank = self.rules.name_of(f"[ \\n\\t]{{0,{whitespace}}}")
        self._comma = f'{self._blank} "," {self._blank}'

    def value(self, schema: Any) -> str:
        """Return an expression for the values of `schema`."""
        if schema is True or not schema:
            written = self._anything()
        elif "$ref" in schema:
            written = self._reference(schema["$ref"].removeprefix("#/$defs/"))
        elif "anyOf" in schema:
            written = f"({' | '.join(map(self.value, schema['anyOf']))})"
        elif "enum" in schema:
            written = f"({' | '.join(literal(strict_json.encode(value)) for value in schema['enum'])})"
        else:
            written = self._of_type(schema)
        return written

    def _of_type(self, schema: Schema) -> str:
        match schema["type"]:
            case "string":
                written = self._string(schema.get("pattern"))
            case "array":
                written = self._array(schema)
            case "object":
                written = self._object(schema) if schema.get("properties") else self._map(schema)
            case "boolean":
                written = '("true" | "false")'
            case "null":
                written = '"null"'
            case _:
                written = number_rule(schema, self.rules)
        return written

    def _anything(self) -> str:
        if "" not in self._defined:
            name = self._defined[""] = self.rules.reserve()
            scalar = [
                self._string(None),
                number_rule({"type": "number"}, self.rules),
                '"true" | "false" | "null"',
            ]
            array = self._bracketed("[", self._listed(name, 0, None), "]")
            pairs = self._listed(self._pair(self._string(None), name), 0, None)
            self.rules.define(name, " | ".join([*scalar, array, self._bracketed("{", pairs, "}")]))
        return self._defined[""]

    def _reference(self, name: str) -> str:
        if name not in self._defined:
            self._defined[name] = self.rules.reserve()
            self.rules.define(self._defined[name], self.value(self._definitions[name]))
        return self._defined[name]

    def _string(self, pattern: Any) -> str:
        if pattern is None:
            return self.rules.name_of(_STRING)
        inner = pattern_rule(pattern.node, self.rules, in_json=True, avoid=self._avoid)
        return f"{_QUOTE} {inner} {_QUOTE}"

    def _array(self, array: Schema) -> str:
        least, most = math.ceil(array.get("minItems", 0)), array.get("maxItems")
        most = None if most is None else math.floor(most)
        prefix, rest = array.get("prefixItems", []), array["items"]
        if not prefix:
            if rest is False or most == 0:
                return self._bracketed("[", EMPTY, "]")
            return self._bracketed("[", self._listed(self._named(rest), least, most), "]")
        after = EMPTY
        if rest is not False:
            bounds = max(least - len(prefix), 0), None if most is None else most - len(prefix)
            after = repeated(f"{self._comma} {self._named(rest)}", *bounds)
        for index in range(len(prefix) - 1, 0, -1):
            item = f"{self._comma} {self.value(prefix[index])} {after}"
            after = self.rules.name_of(item if index < least else f"({item})?")
        items = f"{self.value(prefix[0])} {after}"
        return self._bracketed("[", items if least else f"({items})?", "]")

    def _object(self, single: Schema) -> str:
        pairs = [
            self._pair(literal(strict_json.encode(name)), self.value(part))
            for name, part in single["properties"].items()
        ]
        required = [name in single["required"] for name in single["properties"]]
        return self._bracketed("{", self._members(pairs, required), "}")

    def _members(self, pairs: Sequence[str], required: Sequence[bool]) -> str:
        """Join pairs by commas; the comma before a pair depends on whether any stands before it."""
        first = after = EMPTY
        for pair, needed in zip(reversed(pairs), reversed(required), strict=True):
            name = self.rules.name_of(f"{pair} {after}")
            first = name if needed else self.rules.name_of(f"{name} | {first}")
            follows = f"{self._comma} {name}"
            after = follows if needed else self.rules.name_of(f"{follows} | {after}")
        return first

    def _map(self, single: Schema) -> str:
        if single.get("additionalProperties") is False and not single.get("patternProperties"):
            return self._bracketed("{", EMPTY, "}")
        least, most = math.ceil(single.get("minProperties", 0)), single.get("maxProperties")
        ((pattern, part),) = [*single.get("patternProperties", {}).items()] or [
            (None, single.get("additionalProperties", True))
        ]
        pair = self.rules.name_of(self._pair(self._string(pattern), self._named(part)))
        listed = self._listed(pair, least, None if most is None else math.floor(most))
        return self._bracketed("{", listed, "}")

    def _named(self, schema: Any) -> str:
        return self.rules.name_of(self.value(schema))

    def _listed(self, item: str, least: int, most: int | None) -> str:
        if most == 0:
            return EMPTY
        others = repeated(f"{self._comma} {item}", max(least - 1, 0), None if most is None else most - 1)
        return f"{item} {others}" if least else f"({item} {others})?"

    def _pair(self, key: str, value: str) -> str:
        return f'{key} {self._blank} ":" {self._blank} {value}'

    def _bracketed(self, opening: str, inner: str, closing: str) -> str:
        return f"{literal(opening)} {self._blank} {inner} {self._blank} {literal(closing)}"
