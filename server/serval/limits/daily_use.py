"""Tokens by key and UTC day, in memory, and the part of them that is not saved yet."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

DAY_S: Final = 86_400

# Tokens by subject and day; days are counted from 1970.
Use = Mapping[tuple[str, int], int]


class DailyUse:
    """Tokens used by every key on the current days.

    A day's use is kept in case the clock is set back to it, so that no budget is granted twice.
    """

    def __init__(self) -> None:
        self._used: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._unsaved: defaultdict[tuple[str, int], int] = defaultdict(int)

    def used(self, subject: str, day: int) -> int:
        """Tokens used on `day`, including those reserved."""
        return self._used.get((subject, day), 0)

    def record(self, subject: str, day: int, tokens: int) -> None:
        """Count tokens; a negative number refunds them."""
        self._used[subject, day] += tokens
        self._unsaved[subject, day] += tokens

    def pop_unsaved(self) -> dict[tuple[str, int], int]:
        """Take the use recorded since the last call, to save it."""
        unsaved = {use: tokens for use, tokens in self._unsaved.items() if tokens}
        self._unsaved.clear()
        return unsaved

    def restore_unsaved(self, unsaved: Use) -> None:
        """Put back use that could not be saved."""
        for use, tokens in unsaved.items():
            self._unsaved[use] += tokens

    def merge_saved(self, totals: Use) -> None:
        """Set the use to the saved totals of all processes plus this one's unsaved part."""
        for use, total in totals.items():
            self._used[use] = total + self._unsaved.get(use, 0)

    def drop_other_days(self, first: int, last: int) -> None:
        """Forget the use of days outside this range, except unsaved use."""
        for subject, day in list(self._used):
            if not first <= day <= last and (subject, day) not in self._unsaved:
                del self._used[subject, day]
