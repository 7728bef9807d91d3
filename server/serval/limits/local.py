"""The authority of a gateway that is a single process: the books are in its memory."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from serval.limits.ledger import Ledger, Moment
from serval.limits.messages import Ask, Decision


def clock_moment() -> Moment:
    """Now. What drains goes by a clock that nobody sets; only days go by the one that is set."""
    return Moment(time.monotonic_ns() // 1_000_000, time.time())


class LocalLimiter:
    """A `Limiter` over a ledger of its own. Nothing here waits."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        keeping: Callable[[], AbstractAsyncContextManager[None]],
        now: Callable[[], Moment] = clock_moment,
    ) -> None:
        """`keeping` is what keeps the daily use beyond this process."""
        self._ledger = ledger
        self._keeping = keeping
        self._now = now

    async def reserve(self, ask: Ask) -> Decision:
        """See `Limiter`."""
        return self._ledger.reserve(ask, self._now())

    def settle(self, ask: Ask, tokens: int) -> None:
        """See `Limiter`."""
        self._ledger.settle(ask.id, tokens, self._now())

    def close(self, ask: Ask) -> None:
        """See `Limiter`."""
        self._ledger.close(ask.id, self._now())

    def renew(self, asks: Sequence[Ask]) -> None:
        """See `Limiter`."""
        now = self._now()
        self._ledger.renew([ask.id for ask in asks], now)
        self._ledger.sweep(now)

    def running(self) -> AbstractAsyncContextManager[None]:
        """See `Limiter`."""
        return self._keeping()
