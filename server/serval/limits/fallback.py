"""What a gateway does while the authority over its limits is away.

Limits of requests, tokens a minute and concurrency are counted by the gateway itself, each as the share that
the settings say, so it serves on and is never far over them. A day's budget cannot be counted alone: it lets
requests in for a grace period, and what they use is not counted; after that they are refused.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from serval.caller.limits import Limits
from serval.errors import LimitsUnavailableError
from serval.limits.ledger import Ledger, Moment
from serval.limits.limiter import AuthorityAwayError, Limiter
from serval.limits.local import clock_moment
from serval.limits.messages import Ask, Decision

logger = logging.getLogger(__name__)

_RETRY_AFTER_S = 2


class FallbackLimiter:
    """A `Limiter` that asks `shared`, or itself when that is away."""

    def __init__(
        self,
        shared: Limiter,
        alone: Ledger,
        *,
        share: float,
        grace_s: float,
        now: Callable[[], Moment] = clock_moment,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`share` of a limit is what this process allows alone, at least one."""
        self._shared = shared
        self._alone = alone
        self._share = share
        self._grace_s = grace_s
        self._now = now
        self._monotonic = monotonic
        self._away_since: float | None = None
        # What this process let in by itself.
        self._own: set[str] = set()

    async def reserve(self, ask: Ask) -> Decision:
        """See `Limiter`."""
        try:
            decision = await self._shared.reserve(ask)
        except AuthorityAwayError:
            return self._reserve_alone(ask)
        if self._away_since is not None:
            logger.warning("the limits' authority is back")
            self._away_since = None
        return decision

    def settle(self, ask: Ask, tokens: int) -> None:
        """See `Limiter`."""
        if ask.id in self._own:
            self._own.discard(ask.id)
            self._alone.settle(ask.id, tokens, self._now())
        else:
            self._shared.settle(ask, tokens)

    def close(self, ask: Ask) -> None:
        """See `Limiter`."""
        if ask.id in self._own:
            self._own.discard(ask.id)
            self._alone.close(ask.id, self._now())
        else:
            self._shared.close(ask)

    def renew(self, asks: Sequence[Ask]) -> None:
        """See `Limiter`."""
        own = [ask for ask in asks if ask.id in self._own]
        # What nobody holds any more is never ended.
        self._own = {ask.id for ask in own}
        now = self._now()
        self._alone.renew(self._own, now)
        self._alone.sweep(now)
        self._shared.renew([ask for ask in asks if ask.id not in self._own])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `Limiter`."""
        async with self._shared.running():
            yield

    def _reserve_alone(self, ask: Ask) -> Decision:
        if self._away_since is None:
            logger.warning("the limits' authority is away; this process counts by itself")
            self._away_since = self._monotonic()
        if ask.limits.tokens_per_day is not None and self._monotonic() - self._away_since > self._grace_s:
            raise LimitsUnavailableError(
                "What this API key has used today cannot be looked up at the moment. Try again shortly.",
                retry_after_s=_RETRY_AFTER_S,
            )
        limits = Limits(
            requests_per_minute=self._part_of(ask.limits.requests_per_minute),
            tokens_per_minute=self._part_of(ask.limits.tokens_per_minute),
            concurrent_requests=self._part_of(ask.limits.concurrent_requests),
        )
        # A request that fits the whole limit is let in by a share too, if it is alone.
        tokens = ask.tokens if limits.tokens_per_minute is None else min(ask.tokens, limits.tokens_per_minute)
        decision = self._alone.reserve(
            msgspec.structs.replace(ask, limits=limits, tokens=tokens), self._now()
        )
        if decision.refused is None:
            self._own.add(ask.id)
        return decision

    def _part_of(self, limit: int | None) -> int | None:
        return None if limit is None else max(1, int(limit * self._share))
