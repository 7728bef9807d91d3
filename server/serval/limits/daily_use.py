"""Tokens by key and UTC day: in memory, with what nobody else knows of yet."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

DAY_S: Final = 86_400

# Subject and day, counted from 1970.
Use = Mapping[tuple[str, int], int]


class DailyUse:
    """What every key used on every day that matters.

    A day's use is found again when the clock is set back to it, so setting the clock gives no budget twice.
    """

    def __init__(self) -> None:
        self._used: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._unsaved: defaultdict[tuple[str, int], int] = defaultdict(int)

    def used(self, subject: str, day: int) -> int:
        """Tokens used on `day`, those reserved included."""
        return self._used.get((subject, day), 0)

    def record(self, subject: str, day: int, tokens: int) -> None:
        """Count tokens; negative: give them back."""
        self._used[subject, day] += tokens
        self._unsaved[subject, day] += tokens

    def pop_unsaved(self) -> dict[tuple[str, int], int]:
        """What was added since this was last called, for the one who saves it."""
        unsaved = {use: tokens for use, tokens in self._unsaved.items() if tokens}
        self._unsaved.clear()
        return unsaved

    def restore_unsaved(self, unsaved: Use) -> None:
        """What was taken could not be saved."""
        for use, tokens in unsaved.items():
            self._unsaved[use] += tokens

    def merge_saved(self, totals: Use) -> None:
        """What is saved by now, this process's part and others'."""
        for use, total in totals.items():
            self._used[use] = total + self._unsaved.get(use, 0)

    def drop_other_days(self, first: int, last: int) -> None:
        """Forget other days' use, except what is not saved."""
        for subject, day in list(self._used):
            if not first <= day <= last and (subject, day) not in self._unsaved:
                del self._used[subject, day]
