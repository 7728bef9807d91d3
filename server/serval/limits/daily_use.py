"""Tokens and their cost by key or team and UTC day, in memory, and the part of them that is not saved yet."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from serval.caller.budgets import LONGEST_PERIOD_DAYS, UNITS, Unit

DAY_S: Final = 86_400
# Days before today that some budget may count: those of a month, or of a week before its first day.
KEPT_DAYS: Final = LONGEST_PERIOD_DAYS + 6

# Tokens and their cost by subject and day; days are counted from 1970.
Use = Mapping[tuple[str, int], tuple[int, int]]


class DailyUse:
    """What every key and team has used in the current day, week and month.

    A day's use is kept in case the clock is set back to it, so that no budget is granted twice.
    """

    def __init__(self) -> None:
        self._used: defaultdict[tuple[str, int], list[int]] = defaultdict(_nothing)
        self._unsaved: defaultdict[tuple[str, int], list[int]] = defaultdict(_nothing)

    def used(self, subject: str, day: int) -> int:
        """Tokens used on `day`, including those reserved."""
        return self.used_in(subject, (day,), "tokens")

    def used_in(self, subject: str, days: Iterable[int], unit: Unit) -> int:
        """Tokens, or their cost, used on these days, including those reserved."""
        index = UNITS.index(unit)
        return sum(self._used[subject, day][index] for day in days if (subject, day) in self._used)

    def record(self, subject: str, day: int, tokens: int, cost: int = 0) -> None:
        """Count tokens and their cost; negative numbers refund them."""
        for use in (self._used, self._unsaved):
            amounts = use[subject, day]
            amounts[0] += tokens
            amounts[1] += cost

    def pop_unsaved(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Take the use recorded since the last call, to save it."""
        unsaved = {use: (tokens, cost) for use, (tokens, cost) in self._unsaved.items() if tokens or cost}
        self._unsaved.clear()
        return unsaved

    def restore_unsaved(self, unsaved: Use) -> None:
        """Put back use that could not be saved."""
        for use, (tokens, cost) in unsaved.items():
            amounts = self._unsaved[use]
            amounts[0] += tokens
            amounts[1] += cost

    def merge_saved(self, totals: Use) -> None:
        """Set the use to the saved totals of all processes plus this one's unsaved part."""
        for use, (tokens, cost) in totals.items():
            unsaved = self._unsaved.get(use, (0, 0))
            self._used[use] = [tokens + unsaved[0], cost + unsaved[1]]

    def drop_other_days(self, first: int, last: int) -> None:
        """Forget the use of days outside this range, except unsaved use."""
        for subject, day in list(self._used):
            if not first <= day <= last and (subject, day) not in self._unsaved:
                del self._used[subject, day]


def _nothing() -> list[int]:
    return [0, 0]
