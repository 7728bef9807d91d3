"""Limits while the shared ledger cannot be reached.

The gateway counts requests, tokens per minute and concurrency by itself, against the configured share of each
limit, so it keeps serving and never exceeds them by much. A budget cannot be counted locally: for a
grace period its requests are admitted, and counted when the ledger is back; after that they are refused.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from serval.caller.limits import Limits
from serval.errors import LimitsUnavailableError
from serval.limits.ledger import Ledger, Moment
from serval.limits.limiter import LedgerUnreachableError, SharedLimiter
from serval.limits.local import clock_moment
from serval.limits.messages import Decision, ReservationRequest

logger = logging.getLogger(__name__)

_RETRY_AFTER_S = 2


class FallbackLimiter:
    """A `Limiter` over `shared`, or over a ledger of its own while that cannot be reached."""

    def __init__(
        self,
        shared: SharedLimiter,
        local: Ledger,
        *,
        share: float,
        grace_s: float,
        now: Callable[[], Moment] = clock_moment,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`share` is the part of each limit that this process allows locally, at least 1."""
        self._shared = shared
        self._local = local
        self._share = share
        self._grace_s = grace_s
        self._now = now
        self._monotonic = monotonic
        self._away_since: float | None = None
        # Days of the reservations in the local ledger, by id.
        self._local_ids: dict[str, int] = {}

    async def reserve(self, request: ReservationRequest) -> Decision:
        """See `Limiter`."""
        try:
            decision = await self._shared.reserve(request)
        except LedgerUnreachableError:
            return self._reserve_locally(request)
        if self._away_since is not None:
            logger.warning("the ledger of limits is reachable again")
            self._away_since = None
        return decision

    def settle(self, request: ReservationRequest, *, requests: int, tokens: int, cost: int = 0) -> None:
        """See `Limiter`."""
        if request.id in self._local_ids:
            day = self._local_ids.pop(request.id)
            self._local.settle(request.id, requests=requests, tokens=tokens, now=self._now())
            if request.limits.counted and (tokens or cost):
                self._shared.charge(request, day, tokens=tokens, cost=cost)
        else:
            self._shared.settle(request, requests=requests, tokens=tokens, cost=cost)

    def renew(self, requests: Sequence[ReservationRequest]) -> None:
        """See `Limiter`."""
        own = [request for request in requests if request.id in self._local_ids]
        # Forget reservations whose request is gone.
        self._local_ids = {request.id: self._local_ids[request.id] for request in own}
        now = self._now()
        self._local.renew(self._local_ids, now)
        self._local.sweep(now)
        self._shared.renew([request for request in requests if request.id not in self._local_ids])

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """See `Limiter`."""
        async with self._shared.lifespan():
            yield

    def _reserve_locally(self, request: ReservationRequest) -> Decision:
        if self._away_since is None:
            logger.warning("the ledger of limits cannot be reached; this process counts by itself")
            self._away_since = self._monotonic()
        if request.limits.counted and self._monotonic() - self._away_since > self._grace_s:
            raise LimitsUnavailableError(
                "The use of this API key's budget cannot be looked up at the moment. Try again shortly.",
                retry_after_s=_RETRY_AFTER_S,
            )
        limits = Limits(
            requests_per_minute=self._share_of(request.limits.requests_per_minute),
            tokens_per_minute=self._share_of(request.limits.tokens_per_minute),
            concurrent_requests=self._share_of(request.limits.concurrent_requests),
        )
        # A request that fits the limit but not the share is admitted when it is alone.
        reduced = msgspec.structs.replace(
            request,
            limits=limits,
            requests=_at_most(request.requests, limits.requests_per_minute, limits.concurrent_requests),
            tokens=_at_most(request.tokens, limits.tokens_per_minute),
        )
        now = self._now()
        decision = self._local.reserve(reduced, now)
        if decision.refused is None:
            self._local_ids[request.id] = now.day
        return decision

    def _share_of(self, limit: int | None) -> int | None:
        return None if limit is None else max(1, int(limit * self._share))


def _at_most(number: int, *limits: int | None) -> int:
    return min([number, *(limit for limit in limits if limit is not None)])
