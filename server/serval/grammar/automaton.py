"""Patterns as automata of positions (V. M. Glushkov, 1961): each character set of a pattern is a state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from serval.grammar.pattern import CharacterSet, Choice, Node, Range, Repeat, Sequence

_MAX_EDGES: Final = 50_000


@dataclass(frozen=True, slots=True)
class Part:
    """Positions that can begin a part and positions that can end it; `empty` if it can match no text."""

    first: list[int]
    last: list[int]
    empty: bool


class TooManyEdgesError(Exception):
    """The automaton would be too large."""


@dataclass(slots=True)
class Automaton:
    """`sets[p]` is read at position p; `follow[p]` counts the ways from p to another position.

    A repetition counts to `most_copies` at most: one that is counted further has as many copies, and goes on
    for ever if `most_copies` is reached. Raises TooManyEdgesError.
    """

    most_copies: int
    sets: list[CharacterSet] = field(default_factory=list)
    follow: list[Counter[int]] = field(default_factory=list)
    edges: int = 0

    def add(self, node: Node) -> Part:
        match node:
            case CharacterSet():
                self.sets.append(node)
                self.follow.append(Counter())
                return Part([len(self.sets) - 1], [len(self.sets) - 1], empty=False)
            case Sequence(parts):
                return self._chain((self.add(part) for part in parts), least=len(parts))
            case Choice(options):
                added = [self.add(option) for option in options]
                first = [position for part in added for position in part.first]
                last = [position for part in added for position in part.last]
                return Part(first, last, empty=any(part.empty for part in added))
            case Repeat(part, least, most):
                fewer = min(least, self.most_copies)
                return self._chain(self._copies(part, fewer, most), least=fewer)

    def _copies(self, node: Node, least: int, most: int | None) -> Iterable[Part]:
        number = max(least, 1) if most is None else min(most, self.most_copies)
        for index in range(number):
            copy = self.add(node)
            if most is None and index == number - 1:
                self._connect(copy.last, copy.first)
            yield copy

    def _chain(self, parts: Iterable[Part], *, least: int) -> Part:
        """Chain parts, allowing the chain to end after the `least`-th part or any later one."""
        first: list[int] = []
        open_ends: list[int] = []  # positions that the next part follows
        last: list[int] = []
        empty = True
        for number, part in enumerate(parts, start=1):
            self._connect(open_ends, part.first)
            first = first + part.first if empty else first
            empty = empty and part.empty
            open_ends = open_ends + part.last if part.empty else part.last
            last = last + part.last if part.empty or number > least else part.last
        return Part(first, last, empty=empty or least == 0)

    def _connect(self, ends: list[int], starts: list[int]) -> None:
        self.edges += len(ends) * len(starts)
        if self.edges > _MAX_EDGES:
            raise TooManyEdgesError
        for end in ends:
            self.follow[end].update(starts)


def distinct_letters(sets: Iterable[CharacterSet]) -> list[int]:
    """Return one character for each class of characters that the sets do not distinguish."""
    distinct = {characters.ranges for characters in sets}
    bounds = sorted({bound for ranges in distinct for first, last in ranges for bound in (first, last + 1)})
    seen: dict[frozenset[tuple[Range, ...]], int] = {}
    for bound in bounds:
        members = frozenset(ranges for ranges in distinct if holds(ranges, bound))
        if members:
            seen.setdefault(members, bound)
    return list(seen.values())


def holds(ranges: tuple[Range, ...], code_point: int) -> bool:
    """Return True if `code_point` is in `ranges`."""
    return any(first <= code_point <= last for first, last in ranges)
