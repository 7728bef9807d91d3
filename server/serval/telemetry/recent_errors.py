"""The last errors of this process, for the console. They hold no prompt, answer or key."""

import time
from collections import deque
from typing import Final

from msgspec import Struct

from serval.telemetry.record import RequestRecord

KEPT: Final = 50


class RecentError(Struct, frozen=True):
    """A request that ended with an error, at a Unix time in seconds."""

    at: float
    route: str
    status: int
    code: str
    key_id: str | None
    request_id: str


class RecentErrors:
    """The last `KEPT` errors."""

    def __init__(self) -> None:
        self._errors: deque[RecentError] = deque(maxlen=KEPT)

    def note(self, record: RequestRecord) -> None:
        """Keep the error of a request that has ended, if it ended with one."""
        if record.error_code is not None:
            self._errors.append(
                RecentError(
                    time.time(),
                    record.route,
                    record.status,
                    record.error_code,
                    record.key_id,
                    record.request_id,
                )
            )

    def latest_first(self) -> list[RecentError]:
        """Return the errors, the latest first."""
        return list(reversed(self._errors))
