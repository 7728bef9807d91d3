"""Numbers with bounds and `multipleOf` as rules of xgrammar's EBNF.

An automaton reads a number digit by digit. Its state holds what the rest depends on: how the digits so far
compare with each bound, and their remainder. Numbers are written without an exponent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, NamedTuple

from serval.grammar.compile_cost import STATE
from serval.grammar.pattern_rules import EMPTY, Rules

_MAX_STATES: Final = 1_500
_STEP: Final = 150.0  # the gateway's own work for a step, in milliseconds of the engine
_INTEGER: Final = '("0" | "-"? [1-9] [0-9]*)'
_NUMBER: Final = '("-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [+-]? [0-9]+)?)'

_Cell = tuple[int, int]  # how the digits so far compare with a bound (-1, 0, 1), and how many they are
_Transitions = list[dict[str, int]]


class NumberError(ValueError):
    """The numbers cannot be enforced; the message says why."""


class _Automaton(NamedTuple):
    """State 0 is the start. `ends` are the states in which the number may end."""

    transitions: _Transitions
    ends: frozenset[int]


class _State(NamedTuple):
    phase: str  # "start", "zero" (a single 0), "whole", "point" (just written) or "decimals"
    remainder: int
    decimals: int
    low: _Cell
    high: _Cell


@dataclass(frozen=True, slots=True)
class _Bound:
    """A bound of at least 0, as digits before and after the point."""

    whole: str
    decimals: str
    exclusive: bool

    def after_digit(self, cell: _Cell, digit: str) -> _Cell:
        order, count = cell
        if count >= len(self.whole):
            return order, len(self.whole) + 1
        return order or _sign(digit, self.whole[count]), count + 1

    def at_point(self, cell: _Cell) -> _Cell:
        order, count = cell
        return (order if count == len(self.whole) else (-1 if count < len(self.whole) else 1)), 0

    def after_decimal(self, cell: _Cell, digit: str) -> _Cell:
        order, count = cell
        other = self.decimals[count] if count < len(self.decimals) else "0"
        return order or _sign(digit, other), min(count + 1, len(self.decimals))

    def order_at_end(self, cell: _Cell, *, in_decimals: bool) -> int:
        order, count = cell if in_decimals else self.at_point(cell)
        return order or (-1 if count < len(self.decimals) else 0)


@dataclass(frozen=True, slots=True)
class _Magnitudes:
    """Numbers of at least 0. `modulus` is None without a step; `places`: decimals allowed, None for any."""

    low: _Bound | None
    high: _Bound | None
    modulus: int | None
    places: int | None

    def start(self) -> _State:
        return _State("start", 0, 0, (0, 0), (0, 0))

    def after(self, state: _State, character: str) -> _State | None:
        if character == ".":
            if self.places == 0 or state.phase not in ("zero", "whole"):
                return None
            low = self.low.at_point(state.low) if self.low else state.low
            high = self.high.at_point(state.high) if self.high else state.high
            return _State("point", state.remainder, 0, low, high)
        if state.phase == "zero":
            return None
        remainder = (state.remainder * 10 + int(character)) % (self.modulus or 1)
        if state.phase in ("point", "decimals"):
            if self.places is not None and state.decimals >= self.places:
                return None
            decimals = 0 if self.places is None else state.decimals + 1
            low = self.low.after_decimal(state.low, character) if self.low else state.low
            high = self.high.after_decimal(state.high, character) if self.high else state.high
            return _State("decimals", remainder, decimals, low, high)
        phase = "zero" if state.phase == "start" and character == "0" else "whole"
        low = self.low.after_digit(state.low, character) if self.low else state.low
        high = self.high.after_digit(state.high, character) if self.high else state.high
        return _State(phase, remainder, 0, low, high)

    def may_end(self, state: _State) -> bool:
        if state.phase in ("start", "point"):
            return False
        if self.modulus is not None:
            missing = (self.places or 0) - state.decimals
            if state.remainder * pow(10, missing, self.modulus) % self.modulus:
                return False
        in_decimals = state.phase == "decimals"
        if self.low:
            order = self.low.order_at_end(state.low, in_decimals=in_decimals)
            if order < 0 or (order == 0 and self.low.exclusive):
                return False
        if self.high:
            order = self.high.order_at_end(state.high, in_decimals=in_decimals)
            return order < 0 or (order == 0 and not self.high.exclusive)
        return True


def number_rule(number: Mapping[str, Any], rules: Rules) -> str:
    """Return an expression for the numbers that a schema of type "integer" or "number" admits.

    It has `minimum` or `exclusiveMinimum`, `maximum` or `exclusiveMaximum`, and `multipleOf`, or some of
    them, and admits at least one number. Raises NumberError if too many states would be needed.
    """
    if number.keys() == {"type"}:
        return rules.name_of(_INTEGER if number["type"] == "integer" else _NUMBER)
    key = repr(sorted(number.items()))
    if key not in rules.named:
        parts = [
            f"{sign}{_written(automaton, rules)}"
            for sign, automaton in zip(("", '"-" '), _automata_of(number), strict=True)
            if automaton is not None
        ]
        rules.named[key] = rules.name_of(" | ".join(parts))
    return rules.named[key]


def number_cost(number: Mapping[str, Any]) -> float:
    """Return the milliseconds of the engine that a number may cost. Raises NumberError like `states_of`."""
    if "multipleOf" in number:
        return _STEP + STATE * states_of(number)
    bounds = [Decimal(str(value)) for name, value in number.items() if name != "type"]
    return STATE * sum(abs(bound.adjusted()) for bound in bounds)


def states_of(number: Mapping[str, Any]) -> int:
    """Return the number of states of such a number; 0 if there is none. Raises NumberError."""
    return sum(len(automaton.transitions) for automaton in _automata_of(number) if automaton is not None)


def _automata_of(number: Mapping[str, Any]) -> tuple[_Automaton | None, _Automaton | None]:
    bounds = tuple(sorted((name, str(value)) for name, value in number.items() if name != "type"))
    return _automata(bounds, number["type"] == "integer")


@lru_cache(maxsize=256)
def _automata(
    constraints: tuple[tuple[str, str], ...], integer: bool
) -> tuple[_Automaton | None, _Automaton | None]:
    """Return the automata of the numbers from 0 on, and of those below 0 without their sign."""
    given = {name: Fraction(Decimal(value)) for name, value in constraints}
    low = _tighter(given.get("minimum"), given.get("exclusiveMinimum"), 1)
    high = _tighter(given.get("maximum"), given.get("exclusiveMaximum"), -1)
    modulus, places = _step(given.get("multipleOf"), integer=integer)
    zero = (Fraction(0), False)
    above = _automaton(_max(low, zero), high, modulus, places)
    negated_low = None if high is None else (-high[0], high[1])
    negated_high = None if low is None else (-low[0], low[1])
    below = _automaton(_max(negated_low, (Fraction(0), True)), negated_high, modulus, places)
    return above, below


_Limit = tuple[Fraction, bool]  # a bound, and whether it is exclusive


def _tighter(inclusive: Fraction | None, exclusive: Fraction | None, sign: int) -> _Limit | None:
    found = [
        (value, strict) for value, strict in ((inclusive, False), (exclusive, True)) if value is not None
    ]
    return max(found, key=lambda limit: (sign * limit[0], limit[1])) if found else None


def _max(one: _Limit | None, other: _Limit) -> _Limit:
    return other if one is None else max(one, other)


def _step(step: Fraction | None, *, integer: bool) -> tuple[int | None, int | None]:
    """Return modulus and decimals: a number is a multiple if, without its point, the modulus divides it."""
    if step is None:
        return None, 0 if integer else None
    if integer:  # an integer is a multiple of a/b in lowest terms if a divides it
        return step.numerator, 0
    places = 0
    while (step * 10**places).denominator != 1:
        places += 1
        if places > 30:
            raise NumberError("its multipleOf has too many decimals")
    return (step * 10**places).numerator, places


def _bound(limit: _Limit) -> _Bound:
    value, exclusive = limit
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = str((value * 10**places).numerator).zfill(places + 1)
    return _Bound(digits[: len(digits) - places], digits[len(digits) - places :], exclusive)


def _automaton(
    low: _Limit, high: _Limit | None, modulus: int | None, places: int | None
) -> _Automaton | None:
    """Return the smallest automaton of the numbers between `low` (at least 0) and `high`; None for none."""
    if high is not None and high[0] < low[0]:
        return None
    trivial = low == (Fraction(0), False)
    numbers = _Magnitudes(
        None if trivial else _bound(low), None if high is None else _bound(high), modulus, places
    )
    start = numbers.start()
    index = {start: 0}
    states = [start]
    transitions: _Transitions = []
    while len(transitions) < len(states):
        found: dict[str, int] = {}
        for character in "0123456789.":
            after = numbers.after(states[len(transitions)], character)
            if after is None:
                continue
            if after not in index:
                index[after] = len(states)
                states.append(after)
                if modulus is not None and len(states) > _MAX_STATES:
                    raise NumberError("its bounds and multipleOf need too many states; use rounder numbers")
            found[character] = index[after]
        transitions.append(found)
    ends = frozenset(number for number, state in enumerate(states) if numbers.may_end(state))
    return _smallest(_Automaton(transitions, ends), merge=modulus is not None)


def _smallest(automaton: _Automaton, *, merge: bool) -> _Automaton | None:
    """Leave out states from which no number ends; None if no number is admitted.

    With `merge`, also merge states that admit the same rest (E. F. Moore, 1956); few do without a step.
    """
    transitions, ends = automaton
    block = [int(state in ends) for state in range(len(transitions))] if merge else [*range(len(transitions))]
    count = 0
    while merge and len(set(block)) > count:
        count = len(set(block))
        signatures = [
            (block[state], tuple(sorted((character, block[target]) for character, target in found.items())))
            for state, found in enumerate(transitions)
        ]
        numbers: dict[object, int] = {}
        block = [numbers.setdefault(signature, len(numbers)) for signature in signatures]
    representative: dict[int, int] = {}
    for state, name in enumerate(block):
        representative.setdefault(name, state)
    alive = _alive(transitions, ends)
    if 0 not in alive:
        return None
    order = {name: position for position, name in enumerate(representative)}
    merged: _Transitions = [
        {
            character: order[block[target]]
            for character, target in transitions[state].items()
            if target in alive
        }
        for state in representative.values()
    ]
    return _Automaton(merged, frozenset(order[block[state]] for state in ends))


def _alive(transitions: _Transitions, ends: frozenset[int]) -> set[int]:
    sources: dict[int, set[int]] = {}
    for state, found in enumerate(transitions):
        for target in found.values():
            sources.setdefault(target, set()).add(state)
    alive = set(ends)
    unread = list(ends)
    while unread:
        for source in sources.get(unread.pop(), set()) - alive:
            alive.add(source)
            unread.append(source)
    return alive


def _written(automaton: _Automaton, rules: Rules) -> str:
    names = [rules.reserve() for _ in automaton.transitions]
    for state, found in enumerate(automaton.transitions):
        parts = [EMPTY] if state in automaton.ends else []
        parts += [f"[{characters}] {names[target]}" for characters, target in _by_target(found)]
        rules.define(names[state], " | ".join(parts) or EMPTY)
    return names[0]


def _by_target(found: dict[str, int]) -> Iterator[tuple[str, int]]:
    for target in dict.fromkeys(found.values()):
        yield "".join(character for character, other in found.items() if other == target), target


def _sign(digit: str, other: str) -> int:
    return (digit > other) - (digit < other)
