"""Readiness of an engine, over several questions: one that gets no answer in time changes nothing yet.

An engine whose HTTP loop stalls for two seconds works on afterwards. All its gateways ask it at about the
same time, so if each believed a single stall, the service would be empty for a moment.
"""

import time
from collections.abc import Callable
from typing import Final, Literal, get_args

# An engine is asked about every half second to three seconds, and each question may take two.
PATIENCE_S: Final = 6.0
# told: the engine said first that it takes no more requests; lost: it was ready, and then not there.
StopReason = Literal["told", "lost"]
STOP_REASONS: Final[tuple[StopReason, ...]] = get_args(StopReason)
_READY: Final = 200


class Readiness:
    """The last answer of an engine to `/ready`, which holds while the engine is silent for a short time.

    An answer, and a connection that is refused or broken, count at once.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S, now: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._now = now
        self._silent_since: float | None = None
        self.status: int | None = None
        # Called when an engine that was ready no longer is.
        self.on_stop: Callable[[StopReason], None] = lambda _: None

    @property
    def is_silent(self) -> bool:
        """True if the last question got no answer in time, so that `status` is that of an earlier one."""
        return self._silent_since is not None

    def answered(self, status: int | None) -> None:
        """Note an answer; None: the engine cannot be reached."""
        self._silent_since = None
        if self.status == _READY and status != _READY:
            self.on_stop("lost" if status is None else "told")
        self.status = status

    def silent(self, asked_at: float) -> None:
        """Note that a question asked at that time, by `now`, got no answer."""
        if self._silent_since is None:
            self._silent_since = asked_at
        if self._now() - self._silent_since >= self._patience_s:
            if self.status == _READY:
                self.on_stop("lost")
            self.status = None
