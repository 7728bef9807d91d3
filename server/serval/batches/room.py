"""How many lines may run beside other requests: few, and more only when nobody else has asked for a while.

A line that runs cannot make room: what has begun takes its time. So the number falls at once when others
come, and rises slowly after they have gone, or else each pause between two of their requests would be filled
with lines.
"""

import math
import time
from collections.abc import Callable
from typing import Final

QUIET_S: Final = 1.0
RAMP_S: Final = 2.0


class Room:
    """The number of lines that may run, on one event loop."""

    def __init__(self, *, most: int, busy: int, now: Callable[[], float] = time.monotonic) -> None:
        """`most`: while there are no others; `busy`: while there are some."""
        self._most = most
        self._busy = min(busy, most)
        self._now = now
        self._last_other = -math.inf

    def allowed(self, others: int) -> int:
        """Return how many lines may run now; `others` are the other requests that run or wait."""
        if others > 0:
            self._last_other = self._now()
            return self._busy
        share = (self._now() - self._last_other - QUIET_S) / RAMP_S
        return self._busy + int((self._most - self._busy) * min(max(share, 0.0), 1.0))
