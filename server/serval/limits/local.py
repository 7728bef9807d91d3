"""The limiter of a gateway that is a single process, with the ledger in its memory."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from serval.limits.ledger import Ledger, Moment
from serval.limits.messages import Decision, ReservationRequest


def clock_moment() -> Moment:
    """The current time. Buckets drain by the monotonic clock; only days follow the wall clock."""
    return Moment(time.monotonic_ns() // 1_000_000, time.time())


class LocalLimiter:
    """A `Limiter` over its own ledger, which answers without waiting."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        persistence: Callable[[], AbstractAsyncContextManager[None]],
        now: Callable[[], Moment] = clock_moment,
    ) -> None:
        """`persistence` saves the daily use while it is entered."""
        self._ledger = ledger
        self._persistence = persistence
        self._now = now

    async def reserve(self, request: ReservationRequest) -> Decision:
        """See `Limiter`."""
        return self._ledger.reserve(request, self._now())

    def settle(self, request: ReservationRequest, *, requests: int, tokens: int, cost: int = 0) -> None:
        """See `Limiter`."""
        self._ledger.settle(request.id, requests=requests, tokens=tokens, cost=cost, now=self._now())

    def renew(self, requests: Sequence[ReservationRequest]) -> None:
        """See `Limiter`."""
        now = self._now()
        self._ledger.renew([request.id for request in requests], now)
        self._ledger.sweep(now)

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """See `Limiter`."""
        return self._persistence()
