"""Ambiguity of patterns: the number of ways in which a pattern can read the same text.

xgrammar 0.2.7 follows all of them, for every token of the vocabulary: compiling `^([a-z]+-?)+$`, which reads
n letters in 2^(n-1) ways, takes minutes. Such a pattern has to be refused before it reaches the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from serval.grammar.pattern import CharacterSet, Choice, Node, PatternError, Repeat, Sequence

# About the length of a long token.
_TEXT_LENGTH: Final = 16
_MAX_READINGS: Final = 2_000
_MAX_EDGES: Final = 50_000
# Positions times pairs of letters; the search below takes about 60 ms for this many.
_MAX_STEPS: Final = 60_000


def check_ambiguity(node: Node, pattern: str) -> None:
    """Raise PatternError if a text of 16 characters can be read in more than 2,000 ways.

    Also raises it if the search would take too long. Tries every first character, and chooses the others
    greedily: always the one that leaves the most ways open.
    """
    automaton = _Automaton()
    try:
        whole = automaton.add(node)
    except _TooManyEdgesError:
        raise PatternError(f"{pattern!r:.120} repeats too much inside repetitions; simplify it") from None
    letters = _letters(automaton.sets)
    if len(automaton.sets) * len(letters) ** 2 > _MAX_STEPS:
        raise PatternError(
            f"{pattern!r:.120} tells too many characters apart; simplify it, or list the values"
        )
    for letter in letters:
        if automaton.readings(whole.first, first=letter, letters=letters) > _MAX_READINGS:
            raise PatternError(
                f"{pattern!r:.120} can read one text in thousands of ways, which takes the decoder forever; "
                "write it so that there is one way"
            )


@dataclass(frozen=True, slots=True)
class _Part:
    """Positions that can begin a part and positions that can end it; `empty` if it can match no text."""

    first: list[int]
    last: list[int]
    empty: bool


class _TooManyEdgesError(Exception):
    pass


@dataclass(slots=True)
class _Automaton:
    """Glushkov automaton (V. M. Glushkov, 1961); `follow` counts the ways from one position to another."""

    sets: list[CharacterSet] = field(default_factory=list)
    follow: list[Counter[int]] = field(default_factory=list)
    edges: int = 0

    def add(self, node: Node) -> _Part:
        match node:
            case CharacterSet():
                self.sets.append(node)
                self.follow.append(Counter())
                return _Part([len(self.sets) - 1], [len(self.sets) - 1], empty=False)
            case Sequence(parts):
                return self._chain((self.add(part) for part in parts), least=len(parts))
            case Choice(options):
                added = [self.add(option) for option in options]
                first = [position for part in added for position in part.first]
                last = [position for part in added for position in part.last]
                return _Part(first, last, empty=any(part.empty for part in added))
            case Repeat(part, least, most):
                return self._chain(self._copies(part, least, most), least=least)

    def readings(self, start: list[int], *, first: int, letters: list[int]) -> int:
        """Count the ways to read a text that begins with `first` and is as ambiguous as possible."""
        expected = Counter(start)
        choices = [first]
        for _ in range(_TEXT_LENGTH):
            reads = [self.read(expected, letter) for letter in choices]
            ways, expected = max(
                ((reached.total(), self.next(reached)) for reached in reads), key=lambda pair: pair[1].total()
            )
            if ways > _MAX_READINGS:
                break
            choices = letters
        return ways

    def read(self, reached: Counter[int], letter: int) -> Counter[int]:
        """Return the positions that accept `letter`."""
        return Counter(
            {
                position: ways
                for position, ways in reached.items()
                if any(first <= letter <= last for first, last in self.sets[position].ranges)
            }
        )

    def next(self, reached: Counter[int]) -> Counter[int]:
        following: Counter[int] = Counter()
        for position, ways in reached.items():
            for successor, edges in self.follow[position].items():
                following[successor] += ways * edges
        return following

    def _copies(self, node: Node, least: int, most: int | None) -> Iterable[_Part]:
        number = max(least, 1) if most is None else most
        for index in range(number):
            copy = self.add(node)
            if most is None and index == number - 1:
                self._connect(copy.last, copy.first)
            yield copy

    def _chain(self, parts: Iterable[_Part], *, least: int) -> _Part:
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
        return _Part(first, last, empty=empty or least == 0)

    def _connect(self, ends: list[int], starts: list[int]) -> None:
        self.edges += len(ends) * len(starts)
        if self.edges > _MAX_EDGES:
            raise _TooManyEdgesError
        for end in ends:
            self.follow[end].update(starts)


def _letters(sets: list[CharacterSet]) -> list[int]:
    """Return one character for each class of characters that the sets do not distinguish."""
    distinct = {characters.ranges for characters in sets}
    bounds = sorted({bound for ranges in distinct for first, last in ranges for bound in (first, last + 1)})
    seen: dict[tuple[bool, ...], int] = {}
    for bound in bounds:
        members = tuple(any(first <= bound <= last for first, last in ranges) for ranges in distinct)
        seen.setdefault(members, bound)
    return list(seen.values())
