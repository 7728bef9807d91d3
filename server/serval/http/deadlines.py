"""Timers of one client connection."""

import asyncio
import enum
from collections.abc import Callable

from serval.http.limits import HttpLimits


class Part(enum.Enum):
    """Part of a request that is being received."""

    NOTHING = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class Deadlines:
    """A deadline for the part that is being received, and one for the time between requests.

    A deadline begins with its part and is not extended by arriving data, so a client that sends a byte now
    and then gains nothing.
    """

    __slots__ = (
        "_idle_since",
        "_idle_timer",
        "_limits",
        "_loop",
        "_on_idle",
        "_on_late",
        "_part_of",
        "_timer",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: HttpLimits,
        *,
        on_late: Callable[[str], None],
        on_idle: Callable[[], bool],
    ) -> None:
        """`on_late` is called with the name of a part that took too long.

        `on_idle` is called when no request has come for `idle_s`. It returns False if one is in progress.
        """
        self._loop = loop
        self._limits = limits
        self._on_late = on_late
        self._on_idle = on_idle
        self._timer: asyncio.TimerHandle | None = None
        self._part_of: tuple[Part, int] = (Part.NOTHING, 0)
        # One timer serves all pauses between requests: it fires when the limit would be reached.
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = loop.time()

    @property
    def running(self) -> bool:
        """True while a part has a deadline."""
        return self._timer is not None

    def set_part(self, part: Part, request: int) -> None:
        """Set the deadline of `part` of the connection's `request`th request, if it has none yet."""
        part_of = (part, request)
        if part_of == self._part_of:
            return
        self._part_of = part_of
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if part is Part.HEAD:
            self._timer = self._loop.call_later(self._limits.head_timeout_s, self._on_late, "headers")
        elif part is Part.BODY:
            self._timer = self._loop.call_later(self._limits.body_timeout_s, self._on_late, "body")

    def watch_idle(self) -> None:
        """Start watching for pauses between requests."""
        self._idle_timer = self._loop.call_later(self._limits.idle_s, self._check_idle)

    def request_ended(self) -> None:
        """Note that a request has ended, and a pause begins."""
        self._idle_since = self._loop.time()

    def linger(self, seconds: float, close: Callable[[], None]) -> None:
        """Call `close` in `seconds`, and ignore all other deadlines from now on."""
        self.cancel()
        self._timer = self._loop.call_later(seconds, close)

    def cancel(self) -> None:
        """Cancel all timers, and drop the callbacks: they and the connection refer to each other."""
        for timer in (self._timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._idle_timer = None
        self._on_late = _ignore
        self._on_idle = lambda: True

    def _check_idle(self) -> None:
        wait_s = self._idle_since + self._limits.idle_s - self._loop.time()
        if wait_s <= 0 and not self._on_idle():
            wait_s = self._limits.idle_s
        if wait_s > 0:
            self._idle_timer = self._loop.call_later(wait_s, self._check_idle)


def _ignore(part: str) -> None:
    """Ignore a deadline of a connection that is being closed."""
