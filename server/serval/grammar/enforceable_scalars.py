"""Rewriting strings and numbers into the form that xgrammar 0.2.7 enforces."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, Protocol

from serval.grammar import pattern
from serval.grammar.constraints import Schema
from serval.grammar.pattern_ambiguity import check_ambiguity
from serval.schema.error import UnsatisfiableError

FORMATS: Final = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "json-pointer"}
    | {"relative-json-pointer", "time", "uri", "uri-reference", "uri-template", "uuid"}
)
# xgrammar follows only one of these groups at a time.
_STRING_GROUPS: Final = ({"pattern"}, {"format"}, {"minLength", "maxLength"})
_INT64: Final = 2**63 - 1  # xgrammar's own limit


class Refuse(Protocol):
    """Raises SchemaError if the schema is strict; otherwise the caller leaves the keyword out."""

    def __call__(self, path: str, keyword: str, reason: str = "") -> None: ...


def string_constraints(single: Schema, path: str, refuse: Refuse) -> Schema:
    """Return the group of constraints that can be enforced, without formats that are only annotations."""
    keywords = single.keys() - ({"format"} if single.get("format") not in FORMATS else set())
    groups = [group & keywords for group in _STRING_GROUPS if group & keywords]
    for extra in groups[1:]:
        refuse(path, min(extra), f"it stands beside {min(groups[0])}")
    kept = {key: single[key] for key in sorted(groups[0] if groups else ())}
    if kept.get("maxLength", math.inf) < kept.get("minLength", 0):
        raise UnsatisfiableError(path, "minLength is greater than maxLength")
    return kept


def written_pattern(
    expression: str, path: str, refuse: Refuse, *, avoid: str, in_json: bool = True
) -> str | None:
    """Rewrite a pattern for xgrammar; None if it is left out. For `avoid` see `pattern.write`."""
    try:
        return pattern.write(_checked(expression), in_json=in_json, avoid=avoid)
    except pattern.PatternError as error:
        refuse(path, "pattern", str(error))
        return None


@lru_cache(maxsize=256)  # tools are sent again with each turn, and the check takes milliseconds
def _checked(expression: str) -> pattern.Node:
    node = pattern.parse(expression)
    check_ambiguity(node, expression)
    return node


def rewritten_string(single: Schema, path: str, refuse: Refuse, *, avoid: str) -> Schema:
    kept: Schema = {"type": "string"} | string_constraints(single, path, refuse)
    least, most = kept.get("minLength", 0), kept.get("maxLength")
    if (least or most is not None) and max(least, most or 0) <= pattern.MAX_STATES:
        # xgrammar's own lengths count an invalid UTF-8 sequence as one character.
        characters = pattern.Repeat(
            pattern.ANY_CHARACTER, math.ceil(least), None if most is None else math.floor(most)
        )
        return {"type": "string", "pattern": pattern.write(characters, in_json=True, avoid=avoid)}
    if "pattern" in kept:
        expression = written_pattern(kept.pop("pattern"), path, refuse, avoid=avoid)
        if expression == "":
            return {"enum": [""]}
        if expression is not None:
            kept["pattern"] = expression
    return kept


def rewritten_number(single: Schema, path: str, refuse: Refuse) -> Schema:
    kind, step = single["type"], single.get("multipleOf")
    if step == 1:
        kind = "integer"
    elif step is not None:
        refuse(path, "multipleOf")
    least, most = single.get("minimum", -math.inf), single.get("maximum", math.inf)
    above, below = single.get("exclusiveMinimum", -math.inf), single.get("exclusiveMaximum", math.inf)
    if kind == "integer":
        return _integer(max(_up(least), _down(above) + 1), min(_down(most), _up(below) - 1), path)
    low, high = max(least, above), min(most, below)
    if low > high or (low == high and low in (above, below)):
        raise UnsatisfiableError(path, "no number lies between its bounds")
    number: Schema = {"type": "number"}
    if low > -math.inf:
        number["minimum" if least > above else "exclusiveMinimum"] = low
    if high < math.inf:
        number["maximum" if most < below else "exclusiveMaximum"] = high
    return number


def _integer(least: float, most: float, path: str) -> Schema:
    if least > most or least > _INT64 or most < -_INT64:
        raise UnsatisfiableError(path, "no integer of 64 bits lies between its bounds")
    integer: Schema = {"type": "integer"}
    if least > -math.inf:
        integer["minimum"] = int(max(least, -_INT64))
    if most < math.inf:
        integer["maximum"] = int(min(most, _INT64))
    return integer


def _up(bound: float) -> float:
    return bound if math.isinf(bound) else math.ceil(bound)


def _down(bound: float) -> float:
    return bound if math.isinf(bound) else math.floor(bound)
