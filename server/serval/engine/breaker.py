"""Circuit breaker: while the engine keeps failing, requests fail immediately without being sent."""

import logging
import time
from collections.abc import Callable

from serval.errors import EngineUnavailableError

logger = logging.getLogger(__name__)


class CircuitBreaker:
    """Opens after `failures` failures in a row. After `open_s` one trial may pass; its success closes it.

    Call `enter` before a request, then `record_success`, `record_failure` or `abandon_trial`. The caller
    decides what counts as a failure.
    """

    def __init__(self, *, failures: int, open_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._open_s = open_s
        self._now = now
        self._failures = 0
        # Called with True when the breaker opens, and with False when it closes.
        self.on_change: Callable[[bool], None] = lambda _: None
        # None while closed.
        self._open_until: float | None = None
        self._trial_running = False

    @property
    def is_open(self) -> bool:
        """True while requests are refused; False when a trial is due."""
        return self._open_until is not None and self._now() < self._open_until

    def enter(self) -> bool:
        """Let a request through; True if it is the trial. Raises `EngineUnavailableError` while open."""
        if self._open_until is None:
            return False
        wait_s = self._open_until - self._now()
        if wait_s > 0 or self._trial_running:
            raise EngineUnavailableError(
                "The engine fails at the moment. Try again shortly.", retry_after_s=max(1, round(wait_s))
            )
        self._trial_running = True
        return True

    def record_success(self) -> None:
        """Note that the engine answered."""
        if self._open_until is not None:
            logger.warning("the engine answers again")
            self.on_change(False)
        self._open_until = None
        self._failures = 0
        self._trial_running = False

    def record_failure(self) -> None:
        """Note that the engine was unreachable, silent for too long, or reported a failure of its own."""
        self._failures += 1
        if self._failures >= self._limit:
            if self._open_until is None:
                logger.warning("the engine failed %d times in a row", self._failures)
                self.on_change(True)
            self._open_until = self._now() + self._open_s
            self._trial_running = False

    def abandon_trial(self) -> None:
        """Let another trial through, as this one ended without a result."""
        self._trial_running = False
