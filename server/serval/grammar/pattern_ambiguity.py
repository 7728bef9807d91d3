"""Ambiguity of patterns: the number of ways in which a pattern can read the same text.

xgrammar 0.2.7 follows all of them, for every token of the vocabulary: compiling `^([a-z]+-?)+$`, which reads
n letters in 2^(n-1) ways, takes minutes. Such a pattern has to be refused before it reaches the engine.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from serval.grammar.automaton import Automaton, TooManyEdgesError, distinct_letters, holds
from serval.grammar.pattern import Node, PatternError

# About the length of a long token.
_TEXT_LENGTH: Final = 16
_MAX_READINGS: Final = 2_000
# Pairs of an edge and a letter; the search below takes about 200 ms for this many.
_MAX_STEPS: Final = 300_000
_STEPS_PER_MILLISECOND: Final = 1_500
_WORK_OF_EDGES: Final = 20.0


def check_ambiguity(node: Node, pattern: str) -> float:
    """Raise PatternError if a text of 16 characters can be read in more than 2,000 ways.

    Also raises it if the search would take too long. Tries every first character, and chooses the others
    greedily: always the one that leaves the most ways open. Returns about how many milliseconds it took.
    """
    # Longer repetitions read a text of 16 characters in the same ways.
    automaton = Automaton(most_copies=_TEXT_LENGTH + 1)
    try:
        whole = automaton.add(node)
        search = _Search(automaton)
        for letter in search.letters_of(Counter(whole.first)):
            if search.readings(Counter(whole.first), letter) > _MAX_READINGS:
                raise PatternError(
                    f"{pattern!r:.120} can read one text in thousands of ways, which takes the decoder "
                    "forever; write it so that there is one way",
                    work=search.steps / _STEPS_PER_MILLISECOND,
                )
        return search.steps / _STEPS_PER_MILLISECOND
    except TooManyEdgesError:
        raise PatternError(
            f"{pattern!r:.120} repeats too much inside repetitions; simplify it", _WORK_OF_EDGES
        ) from None
    except _TooManyStepsError:
        raise PatternError(
            f"{pattern!r:.120} tells too many characters apart; simplify it, or list the values",
            work=_MAX_STEPS / _STEPS_PER_MILLISECOND,
        ) from None


class _TooManyStepsError(Exception):
    pass


class _Search:
    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        letters = distinct_letters(automaton.sets)
        known: dict[object, tuple[int, ...]] = {}
        for characters in automaton.sets:
            if characters.ranges not in known:
                known[characters.ranges] = tuple(one for one in letters if holds(characters.ranges, one))
        self._accepted = [known[characters.ranges] for characters in automaton.sets]
        self.steps = 0

    def letters_of(self, expected: Counter[int]) -> list[int]:
        """Return the letters that one of the positions accepts."""
        return list(dict.fromkeys(letter for position in expected for letter in self._accepted[position]))

    def readings(self, expected: Counter[int], letter: int) -> int:
        """Count the ways to read a text that begins with `letter` and is as ambiguous as possible."""
        reached = self._read(expected)[letter]
        for _ in range(_TEXT_LENGTH - 1):
            if reached.total() > _MAX_READINGS:
                break
            by_letter = self._read(self._next(reached))
            if not by_letter:
                break
            reached = max(by_letter.values(), key=self._open_ways)
        return reached.total()

    def _read(self, expected: Counter[int]) -> dict[int, Counter[int]]:
        """Return, for each letter, the positions that accept it."""
        by_letter: dict[int, Counter[int]] = {}
        for position, ways in expected.items():
            self._count(len(self._accepted[position]))
            for letter in self._accepted[position]:
                by_letter.setdefault(letter, Counter())[position] = ways
        return by_letter

    def _next(self, reached: Counter[int]) -> Counter[int]:
        following: Counter[int] = Counter()
        for position, ways in reached.items():
            self._count(len(self._automaton.follow[position]))
            for successor, edges in self._automaton.follow[position].items():
                following[successor] += ways * edges
        return following

    def _open_ways(self, reached: Counter[int]) -> int:
        self._count(len(reached))
        follow = self._automaton.follow
        return sum(ways * follow[position].total() for position, ways in reached.items())

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _MAX_STEPS:
            raise _TooManyStepsError
