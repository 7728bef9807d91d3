"""Reservation of a request's use before it goes to the engine, and its settlement afterwards."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final

from serval.caller.identity import Identity
from serval.caller.limits import Limits, in_force
from serval.errors import LimitsUnavailableError
from serval.limits.headers import limit_headers, never_fits, refusal
from serval.limits.limiter import Limiter
from serval.limits.messages import ReservationRequest
from serval.telemetry.record import RequestRecord

# A lease survives two failed renewals.
_RENEWALS_PER_LEASE: Final = 3


class Reservation:
    """A request's reservation: made on entering, ended on leaving at the latest.

    A reservation that is not settled by then never reached the engine and is refunded.
    """

    def __init__(self, gate: "Gate", request: ReservationRequest | None, record: RequestRecord) -> None:
        """`request` None: the key has no limits."""
        # For the response, however the request ends.
        self.headers: Mapping[str, str] = {}
        self.request = request
        self._gate = gate
        self._record = record

    async def __aenter__(self) -> "Reservation":
        """Raises `RateLimitError`, `InsufficientQuotaError` or `LimitsUnavailableError`."""
        if self.request is not None:
            request, self.request = self.request, None
            self.headers = await self._gate.reserve(request, self._record)
            self.request = request
            self._gate.open.add(self)
        return self

    def settle(self, tokens: int) -> None:
        """End with the `tokens` that the engine used. Only the first call counts; it cannot be cancelled."""
        if self.request is not None:
            self._gate.limiter.settle(self.request, tokens)
            self._over()

    def close(self) -> None:
        """End with a full refund: the request did not reach the engine."""
        if self.request is not None:
            self._gate.limiter.close(self.request)
            self._over()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _over(self) -> None:
        self.request = None
        self._gate.open.discard(self)


class Gate:
    """Reservations of all requests, and renewal of their leases."""

    def __init__(
        self, limiter: Limiter, *, defaults: Limits, lease_s: float, reserved_completion_tokens: int
    ) -> None:
        """`defaults` apply to keys without limits of their own."""
        self.limiter = limiter
        # Weak: a reservation that no request holds any more is not renewed, so its slot becomes free.
        self.open: weakref.WeakSet[Reservation] = weakref.WeakSet()
        self._lease_s = lease_s
        self.replace_defaults(defaults, reserved_completion_tokens=reserved_completion_tokens)

    def replace_defaults(self, defaults: Limits, *, reserved_completion_tokens: int) -> None:
        """Apply these to requests from now on. Existing reservations stay as they are."""
        self._defaults = defaults
        self._reserved_completion_tokens = reserved_completion_tokens

    def reservation(
        self,
        identity: Identity,
        record: RequestRecord,
        *,
        prompt_tokens: int,
        completions: int,
        completion_limit: int | None,
        context_room: int = 0,
    ) -> Reservation:
        """The reservation to enter before the request goes to the engine.

        `completion_limit` is in tokens for each of the `completions`. Without one, a completion is counted as
        `reserved_completion_tokens`, at most `context_room`, until its length is known.
        Raises `InvalidRequestError` if the request can never fit the limits.
        """
        limits = in_force(identity.limits, self._defaults)
        if limits.unlimited:
            return Reservation(self, None, record)
        most = limits.tokens
        if completion_limit is None:
            completion_limit = min(self._reserved_completion_tokens, context_room)
            if most is not None:
                completion_limit = max(1, min(completion_limit, (most - prompt_tokens) // completions))
        completion_tokens = completion_limit * completions
        tokens = prompt_tokens + completion_tokens
        if most is not None and tokens > most:
            record.rejection = "too_large"
            raise never_fits(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, limits=limits)
        return Reservation(
            self, ReservationRequest(record.request_id, identity.subject, limits, tokens), record
        )

    async def reserve(self, request: ReservationRequest, record: RequestRecord) -> Mapping[str, str]:
        """Reserve, and return the response's headers. Raises as `Reservation.__aenter__` does."""
        try:
            decision = await self.limiter.reserve(request)
        except LimitsUnavailableError:
            record.rejection = "limits_unavailable"
            raise
        headers = limit_headers(request.limits, decision)
        if decision.refused is not None:
            record.rejection = decision.refused
            raise refusal(decision, tokens=request.tokens, limits=request.limits, headers=headers)
        return headers

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Renew the leases of running requests while entered."""
        async with self.limiter.lifespan():
            renewer = asyncio.create_task(self._renew())
            try:
                yield
            finally:
                renewer.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / _RENEWALS_PER_LEASE)
            self.limiter.renew(
                [reservation.request for reservation in self.open if reservation.request is not None]
            )
