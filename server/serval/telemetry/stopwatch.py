"""Time of one request, split by the part of the system that the request waited for."""

import enum
import time


class Phase(enum.IntEnum):
    """Part of the system that has to act before a request can go on."""

    GATEWAY = 0
    QUEUE = 1
    ENGINE = 2
    CLIENT = 3


# Looking a member up in its class costs as much as a call in Python 3.11, for each token.
GATEWAY, QUEUE, ENGINE, CLIENT = Phase


class Stopwatch:
    """Is in exactly one phase at any time, so that the phases' times add up to the time elapsed.

    Times are in seconds; points in time are `time.perf_counter`'s.
    """

    __slots__ = ("_entered", "_phase", "_seconds", "started")

    def __init__(self, started: float | None = None) -> None:
        """Start, in the phase GATEWAY."""
        self.started = time.perf_counter() if started is None else started
        self._phase = GATEWAY
        self._entered = self.started
        # By phase, without the time since the last `enter`.
        self._seconds = [0.0, 0.0, 0.0, 0.0]

    def enter(self, phase: Phase, now: float) -> None:
        """Leave the current phase, and enter `phase`, at `now`."""
        self._seconds[self._phase] += now - self._entered
        self._phase = phase
        self._entered = now

    def elapsed_s(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.started

    def seconds_in(self, phase: Phase, elapsed_s: float) -> float:
        """Time in `phase` up to `elapsed_s` after the start, which must not be before the last `enter`."""
        current_s = self.started + elapsed_s - self._entered if phase is self._phase else 0.0
        return self._seconds[phase] + current_s

    def queue_s(self, elapsed_s: float) -> float | None:
        """Time spent in the queue; None if the request never had to wait there."""
        return self.seconds_in(QUEUE, elapsed_s) or None
