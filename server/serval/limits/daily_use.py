"""Use of every key and team by UTC day, in memory, and the part of it that is not saved yet."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from serval.caller.budgets import LONGEST_PERIOD_DAYS, UNITS, Unit, Used

DAY_S: Final = 86_400
# Days before today that some budget may count: those of a month, or of a week before its first day.
KEPT_DAYS: Final = LONGEST_PERIOD_DAYS + 6


# By subject and day; days are counted from 1970.
Use = Mapping[tuple[str, int], Used]
_NOTHING: Final = Used()


class DailyUse:
    """Use of every key and team in the current day, week and month.

    A day's use is kept in case the clock is set back to it, so that no budget is granted twice.
    """

    def __init__(self) -> None:
        self._used: defaultdict[tuple[str, int], Used] = defaultdict(Used)
        self._unsaved: defaultdict[tuple[str, int], Used] = defaultdict(Used)

    def used(self, subject: str, day: int) -> int:
        """Tokens used on `day`, including those reserved."""
        return self._used.get((subject, day), _NOTHING).tokens

    def used_in(self, subject: str, days: Iterable[int], unit: Unit) -> int:
        """Tokens, or their cost, used on these days, including those reserved."""
        index = UNITS.index(unit)
        total = 0
        for day in days:
            used = self._used.get((subject, day))
            if used is not None:
                total += used[index]
        return total

    def record(self, subject: str, day: int, used: Used) -> None:
        """Count use; negative numbers refund it."""
        for use in (self._used, self._unsaved):
            use[subject, day] = use[subject, day].plus(used)

    def pop_unsaved(self) -> dict[tuple[str, int], Used]:
        """Take the use recorded since the last call, to save it."""
        unsaved = {use: used for use, used in self._unsaved.items() if any(used)}
        self._unsaved.clear()
        return unsaved

    def restore_unsaved(self, unsaved: Use) -> None:
        """Put back use that could not be saved."""
        for use, used in unsaved.items():
            self._unsaved[use] = self._unsaved[use].plus(used)

    def merge_saved(self, totals: Use) -> None:
        """Set the use to the saved totals of all processes plus this one's unsaved part."""
        for use, total in totals.items():
            self._used[use] = total.plus(self._unsaved.get(use, _NOTHING))

    def drop_other_days(self, first: int, last: int) -> None:
        """Forget the use of days outside this range, except unsaved use."""
        for subject, day in list(self._used):
            if not first <= day <= last and (subject, day) not in self._unsaved:
                del self._used[subject, day]
