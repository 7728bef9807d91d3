"""Cost of compiling a grammar, estimated before the engine sees it.

The unit is a millisecond of one thread for a vocabulary of 131,072 entries, as `loadtests/grammar_bounds.py`
measures it; the figures here are rounded up. One request may cost MAX_COST.
"""

from __future__ import annotations

from typing import Final

from serval.schema.error import SchemaError

MAX_COST: Final = 10_000.0
# A state at which words may go on costs most: each token of the vocabulary is tried there.
_OTHER: Final = 0.3
_LOWER: Final = 12.0
_UPPER: Final = 3.0
_SPACE: Final = 18.0
STATE: Final = 1.0
PART: Final = 0.5
LISTED_VALUE: Final = 0.05


class Budget:
    """Cost that one request may still have."""

    def __init__(self, limit: float = MAX_COST) -> None:
        self._limit = limit
        self._left = limit
        self._seen: set[str] = set()

    def spend(self, cost: float, path: str, once_for: str = "") -> None:
        """Spend `cost`; only the first time if `once_for` names what the engine compiles only once.

        Raises SchemaError, with `path`, if less is left.
        """
        if once_for in self._seen:
            return
        if once_for:
            self._seen.add(once_for)
        self._left -= cost
        if self._left < 0:
            spent, limit = (self._limit - self._left) / 1000, self._limit / 1000
            raise SchemaError(
                path,
                "the schemas of this request are too expensive to enforce: up to here they cost the engine "
                f"about {spent:.1f} s, and at most {limit:.0f} s are allowed; use fewer or simpler patterns, "
                "a shorter minLength, or fewer parts",
            )


def class_cost(ranges: tuple[tuple[int, int], ...]) -> float:
    """Return the cost of one state at which a character in `ranges` may follow."""
    return (
        _OTHER
        + _LOWER * _share(ranges, 0x61, 0x7A)
        + _UPPER * _share(ranges, 0x41, 0x5A)
        + _SPACE * _share(ranges, 0x20, 0x20)
    )


def _share(ranges: tuple[tuple[int, int], ...], first: int, last: int) -> float:
    common = sum(max(0, min(high, last) - max(low, first) + 1) for low, high in ranges)
    return common / (last - first + 1)
