"""A circuit breaker: while the engine fails, requests fail at once instead of one after the other."""

import logging
import time
from collections.abc import Callable

from serval.errors import EngineUnavailableError

logger = logging.getLogger(__name__)


class CircuitBreaker:
    """Opens after `failures` failures in a row. After `open_s` one request may try; its success closes it.

    What counts is the caller's business. It says `admit` first, then `succeeded`, `failed` or `withdrawn`.
    """

    def __init__(self, *, failures: int, open_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._open_s = open_s
        self._now = now
        self._failures = 0
        # Told True when requests begin to fail at once, and False when they no longer do.
        self.tell: Callable[[bool], None] = lambda _: None
        # None: closed.
        self._open_until: float | None = None
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether requests are refused; not when the next one may try."""
        return self._open_until is not None and self._now() < self._open_until

    def admit(self) -> bool:
        """Let a request through; True if it is the one that tries. Raises `EngineUnavailableError`."""
        if self._open_until is None:
            return False
        wait_s = self._open_until - self._now()
        if wait_s > 0 or self._trying:
            raise EngineUnavailableError(
                "The engine fails at the moment. Try again shortly.", retry_after_s=max(1, round(wait_s))
            )
        self._trying = True
        return True

    def succeeded(self) -> None:
        """The engine answers."""
        if self._open_until is not None:
            logger.warning("the engine answers again")
            self.tell(False)
        self._open_until = None
        self._failures = 0
        self._trying = False

    def failed(self) -> None:
        """The engine could not be reached, was silent for too long, or reported a failure of its own."""
        self._failures += 1
        if self._failures >= self._limit:
            if self._open_until is None:
                logger.warning("the engine failed %d times in a row", self._failures)
                self.tell(True)
            self._open_until = self._now() + self._open_s
            self._trying = False

    def withdrawn(self) -> None:
        """The request that tried ended without a result; another one may try."""
        self._trying = False
