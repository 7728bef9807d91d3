"""Rewriting strings and numbers into forms that the decoder enforces."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

from serval.grammar import pattern
from serval.grammar.constraints import Schema
from serval.grammar.number_rules import NumberError, states_of
from serval.grammar.pattern_algebra import ContradictionError, both, of_length
from serval.grammar.pattern_ambiguity import check_ambiguity
from serval.grammar.pattern_rules import pattern_cost
from serval.grammar.string_formats import FORMAT_PATTERNS
from serval.schema.error import UnsatisfiableError

_INT64: Final = 2**63 - 1  # xgrammar's own limit
# A required run of characters takes time for each of its blocks, an optional one does not.
MAX_MIN_LENGTH: Final = 10_000
_MAX_COUNT: Final = 2**31 - 1
# The gateway serves all its clients on one core, so a millisecond of its own counts as several of the engine.
_OWN_WORK: Final = 10.0
_WORK_OF_BOTH: Final = 20.0


class Refuse(Protocol):
    """Raises SchemaError if the schema is strict; otherwise the caller leaves the keyword out."""

    def __call__(self, path: str, keyword: str, reason: str = "") -> None: ...


Spend = Callable[[float, str], None]  # with a cost, and the place that causes it


class WrittenPattern(str):
    """A regular expression for xgrammar, the `node` that it was written from, and what it costs."""

    node: pattern.Node
    cost: float

    def __new__(cls, node: pattern.Node, cost: float, *, in_json: bool, avoid: str) -> WrittenPattern:
        """Write `node`. The options are those of `pattern.write`, which may raise PatternError."""
        written = super().__new__(cls, pattern.write(node, in_json=in_json, avoid=avoid))
        written.node = node
        written.cost = cost
        return written


def lengths_of(single: Schema, path: str, refuse: Refuse) -> tuple[int, float]:
    """Return `minLength` and `maxLength` (infinity if there is none)."""
    least, most = max(math.ceil(single.get("minLength", 0)), 0), single.get("maxLength", math.inf)
    if most < least:
        raise UnsatisfiableError(path, "minLength is greater than maxLength")
    if least > MAX_MIN_LENGTH:
        refuse(path, "minLength", f"{least} is too long, at most {MAX_MIN_LENGTH} can be")
        least = MAX_MIN_LENGTH
    return least, most if most == math.inf else min(math.floor(most), _MAX_COUNT)


def string_pattern(
    single: Schema, path: str, refuse: Refuse, spend: Spend, *, avoid: str, in_json: bool
) -> WrittenPattern | None:
    """Return one pattern for all constraints of a string; None if there are none, or none is left.

    Formats without a pattern are annotations. If the constraints cannot be enforced together, `spend` is
    called with what it cost to find out, and `refuse`; then as many of them as possible are enforced. A
    pattern counts more than a format that contradicts it.
    """
    least, most = lengths_of(single, path, refuse)
    expressions = {
        "format": FORMAT_PATTERNS.get(single.get("format", "")),
        "pattern": single.get("pattern"),
    }
    given = {name: expression for name, expression in expressions.items() if expression is not None}
    for left_out in ((), ("format",), ("pattern",), ("format", "pattern")):
        if not given.keys() >= set(left_out):
            continue
        kept = tuple(expression for name, expression in given.items() if name not in left_out)
        if not kept and not least and most == math.inf:
            return None
        try:
            return WrittenPattern(*_joined(kept, least, most), in_json=in_json, avoid=avoid)
        except ContradictionError:
            # A format is an annotation to JSON Schema: Zod's pattern of times contradicts `time` (RFC 3339).
            continue
        except pattern.PatternError as error:
            spend(error.work * _OWN_WORK, path)
            refuse(
                path,
                next((name for name in ("pattern", "format", "minLength") if name in single), "maxLength"),
                str(error),
            )
    return None


def written_pattern(
    expression: str, path: str, refuse: Refuse, spend: Spend, *, avoid: str, in_json: bool = True
) -> WrittenPattern | None:
    """Rewrite a pattern for xgrammar; None if it is left out. For `spend` see `string_pattern`."""
    try:
        return WrittenPattern(*_checked(expression), in_json=in_json, avoid=avoid)
    except pattern.PatternError as error:
        spend(error.work * _OWN_WORK, path)
        refuse(path, "pattern", str(error))
        return None


def rewritten_number(single: Schema, path: str, refuse: Refuse) -> Schema:
    """Return the constraints of a number as xgrammar or `number_rules` enforces them."""
    kind, step = single["type"], single.get("multipleOf")
    if step == 1:
        kind, step = "integer", None
    number = _bounded(kind, single, path)
    if step is None:
        return number
    try:
        if not states_of(number | {"multipleOf": step}):
            raise UnsatisfiableError(path, "no multiple lies between its bounds")
    except NumberError as error:
        refuse(path, "multipleOf", str(error))
        return number
    return number | {"multipleOf": step}


def _joined(expressions: tuple[str, ...], least: int, most: float) -> tuple[pattern.Node, float]:
    """Return the pattern of texts that match all expressions and are as long as asked for, and its cost."""
    if not expressions:
        node: pattern.Node = pattern.Repeat(
            pattern.ANY_CHARACTER, least, None if most == math.inf else int(most)
        )
        return node, pattern_cost(node)
    if len(expressions) == 1 and not least and most == math.inf:
        return _checked(expressions[0])
    return _combined(expressions, least, most)


@lru_cache(maxsize=256)  # tools are sent again with each turn, and the checks take milliseconds
def _checked(expression: str) -> tuple[pattern.Node, float]:
    node = pattern.parse(expression)
    return node, check_ambiguity(node, expression) * _OWN_WORK + pattern_cost(node)


@lru_cache(maxsize=256)
def _combined(expressions: tuple[str, ...], least: int, most: float) -> tuple[pattern.Node, float]:
    node, work = pattern.parse(expressions[0]), 0.0
    for expression in expressions[1:]:
        node, work = both(node, pattern.parse(expression)), work + _WORK_OF_BOTH
    node = of_length(node, least, most)
    work += check_ambiguity(node, " and ".join(expressions))
    return node, work * _OWN_WORK + pattern_cost(node)


def _bounded(kind: str, single: Schema, path: str) -> Schema:
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
