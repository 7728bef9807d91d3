"""Saturation of the engine, polled twice a second, and load shedding.

Saturation is the larger of two ratios: requests waiting in the engine, and tokens in its KV cache, each to
its high-water mark. With several engines, the least loaded one counts. Bulk requests are shed at 1 or more,
default ones at 2 or more, interactive ones never. Only the queue can reach 2. While the engine does not
report its load, nothing is shed.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from serval.caller.priority import Priority
from serval.engine.protocol import EngineLoadReport
from serval.errors import ApiError, EngineOverloadedError

logger = logging.getLogger(__name__)

POLL_S: Final = 0.5
STALE_S: Final = 5.0
_SHED_AT: Final[Mapping[Priority, float]] = {"bulk": 1.0, "default": 2.0, "interactive": float("inf")}
_RETRY_AFTER_S: Final = 3


class EngineLoad:
    """The engine's saturation, updated by `watch`."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Sequence[EngineLoadReport]]],
        *,
        high_queue: int,
        high_kv_use: float,
        on_change: Callable[[float], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Saturation is 1 at `high_queue` requests waiting, or `high_kv_use` of the KV cache used."""
        self._fetch = fetch
        self._high_queue = high_queue
        self._high_kv_use = high_kv_use
        self._on_change = on_change
        self._now = now
        self._heard_at = now()
        self.saturation = 0.0

    def check(self, priority: Priority) -> None:
        """Raise `EngineOverloadedError` if requests of this class are shed."""
        if self.saturation >= _SHED_AT[priority]:
            raise EngineOverloadedError(
                f"The engine is saturated; requests of class {priority!r} are not taken. Try again later.",
                retry_after_s=_RETRY_AFTER_S,
            )

    async def watch(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(POLL_S)

    async def refresh(self) -> None:
        """Poll once. On failure the last report stays valid for `STALE_S`."""
        try:
            reports = await self._fetch()
        except ApiError as error:
            if self.saturation and self._now() - self._heard_at > STALE_S:
                logger.warning("the engine does not tell its load, nothing is shed: %s", error)
                self._set(0.0)
            return
        self._heard_at = self._now()
        self._set(min(map(self._saturation_of, reports), default=0.0))

    def _saturation_of(self, report: EngineLoadReport) -> float:
        return max(report.waiting / self._high_queue, report.kv_use / self._high_kv_use)

    def _set(self, saturation: float) -> None:
        self.saturation = saturation
        self._on_change(saturation)
