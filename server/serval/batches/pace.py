"""How many lines of each caller may run at once, learned from what its limits refuse.

After a refusal, as many may run as ran beside the refused one, and none until it is time to try again. Each
answer then lets the number grow, by about one for every so many answers as run at once.
"""

import time
from collections import Counter
from collections.abc import Callable


class CallerPaces:
    """Lines that run, and the bounds of callers that were refused. A caller is named by its subject."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._running: Counter[str] = Counter()
        self._allowed: dict[str, float] = {}
        self._paused_until: dict[str, float] = {}

    def begin(self, subject: str) -> None:
        """Note that a line begins."""
        self._running[subject] += 1

    def end(self, subject: str) -> None:
        """Note that a line has ended, however it did."""
        self._running[subject] -= 1

    def refused(self, subject: str, wait_s: float) -> None:
        """Note that a line, which has ended, was refused by the caller's limits."""
        self._paused_until[subject] = self._now() + wait_s
        running = max(1.0, self._running[subject])
        self._allowed[subject] = min(self._allowed.get(subject, running), running)

    def answered(self, subject: str, most: int) -> None:
        """Note that a line was answered; the bound is forgotten once it reaches `most`."""
        allowed = self._allowed.get(subject)
        if allowed is not None:
            allowed += 1 / allowed
            if allowed >= most:
                del self._allowed[subject]
            else:
                self._allowed[subject] = allowed

    def room(self) -> dict[str, int]:
        """How many more lines may begin, by subject, of those that have a bound."""
        now = self._now()
        self._paused_until = {name: until for name, until in self._paused_until.items() if until > now}
        room = {name: int(allowed) - self._running[name] for name, allowed in self._allowed.items()}
        return room | dict.fromkeys(self._paused_until, 0)
