"""Simulated time: events in the order of their time, and none waits."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count


@dataclass(eq=False)
class Clock:
    """Events and the time of the latest, in seconds."""

    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Call `event` in `delay_s` seconds, after the events that are due by then already."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._numbers), event))

    def run(self) -> None:
        """Call all events, and those that they add."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
