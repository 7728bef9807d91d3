"""Reservation of a request's use before it is worked on, and its settlement afterwards.

A call reserves twice: its requests of the engine before its prompt is rendered, so that a key over its limits
causes no work, and its tokens once the prompt is known. Both are reservations of their own and end together.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final

from msgspec.structs import replace

from serval.caller.identity import Identity
from serval.caller.limits import Limits, in_force
from serval.errors import ApiError, LimitsUnavailableError
from serval.limits.headers import limit_headers, never_fits, refusal, too_many_requests
from serval.limits.limiter import Limiter
from serval.limits.messages import Decision, ReservationRequest
from serval.telemetry.record import RequestRecord

# A lease survives two failed renewals.
_RENEWALS_PER_LEASE: Final = 3
_MINUTE_MS: Final = 60_000


class Reservation:
    """A call's reservation: begun on entering, completed by `reserve_tokens`, ended at the latest on leaving.

    A reservation that is not settled by then never reached the engine; see `end_unused`.
    """

    __slots__ = (
        "__weakref__",
        "_gate",
        "_limits",
        "_next_request_ms",
        "_record",
        "_requests",
        "_subject",
        "headers",
        "parts",
    )

    def __init__(
        self, gate: "Gate", subject: str, limits: Limits, record: RequestRecord, *, requests: int
    ) -> None:
        """`requests`: how many the engine will run."""
        # For the response, however the request ends.
        self.headers: Mapping[str, str] = {}
        # Open reservations, of the requests and of the tokens.
        self.parts: list[ReservationRequest] = []
        self._gate = gate
        self._subject = subject
        self._limits = limits
        self._record = record
        self._requests = requests
        # Time after which the next request may be made, as far as known.
        self._next_request_ms = 0

    async def __aenter__(self) -> "Reservation":
        """Reserve the requests. Raises `RateLimitError` or `LimitsUnavailableError`."""
        limits = self._limits
        if limits.requests is not None:
            part = ReservationRequest(
                self._record.request_id, self._subject, limits.of_requests, requests=self._requests
            )
            decision = await self._reserve(part)
            if limits.requests_per_minute is not None and not decision.requests_remaining:
                self._next_request_ms = -(-_MINUTE_MS // limits.requests_per_minute)
        return self

    async def reserve_tokens(
        self, *, prompt_tokens: int, completion_limit: int | None, context_room: int = 0
    ) -> None:
        """Reserve the tokens of all prompts together and of one completion for each request.

        `completion_limit` is in tokens for each completion. Without one, a completion is counted as
        `reserved_completion_tokens`, at most `context_room`, or as what the day has left, until its length is
        known.
        Raises `InvalidRequestError` if the request can never fit the limits, and as `__aenter__` does, or
        `InsufficientQuotaError`.
        """
        limits, most = self._limits, self._limits.tokens
        if most is None:
            return
        usual = completion_limit
        if completion_limit is None:
            completion_limit = 1
            usual = max(1, min(self._gate.reserved_completion_tokens, context_room))
        assert usual is not None
        completion_tokens = completion_limit * self._requests
        least = prompt_tokens + completion_tokens
        if least > most:
            self._record.rejection = "too_large"
            raise never_fits(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, limits=limits)
        tokens = min(prompt_tokens + usual * self._requests, most)
        part = ReservationRequest(
            f"{self._record.request_id}-tokens",
            self._subject,
            limits.of_tokens,
            tokens,
            optional_tokens=tokens - least,
        )
        await self._reserve(part)

    async def _reserve(self, part: ReservationRequest) -> Decision:
        decision = await self._gate.decide(part, self._record)
        headers = limit_headers(part.limits, decision)
        self.headers = {**self.headers, **headers}
        if decision.refused is not None:
            self._record.rejection = decision.refused
            # A request that is refused for its tokens has counted as a request.
            decision = replace(decision, wait_ms=max(decision.wait_ms, self._next_request_ms))
            raise refusal(decision, part, headers=self.headers)
        self.parts.append(part)
        self._gate.open.add(self)
        return decision

    def settle(self, *, requests: int, tokens: int) -> None:
        """End with what the engine used. Only the first call counts; it cannot be cancelled."""
        if not self.parts:
            return
        for part in self.parts:
            self._gate.limiter.settle(part, requests=requests, tokens=tokens)
        self.parts = []
        self._gate.open.discard(self)

    def end_unused(self, error: BaseException | None) -> None:
        """End without use by the engine: the call counts as one request, unless the server failed."""
        failed = isinstance(error, ApiError) and error.status >= 500
        self.settle(requests=0 if failed else 1, tokens=0)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.parts:
            self.end_unused(error)


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
        self.reserved_completion_tokens = reserved_completion_tokens

    def reservation(self, identity: Identity, record: RequestRecord, *, requests: int) -> Reservation:
        """The reservation of a call that makes `requests` of the engine, to be entered before any work.

        Raises `InvalidRequestError` if it can never fit the limits.
        """
        limits = in_force(identity.limits, self._defaults)
        most = limits.requests
        if most is not None and requests > most:
            record.rejection = "too_large"
            raise too_many_requests(requests, limits=limits)
        return Reservation(self, identity.subject, limits, record, requests=requests)

    async def count(self, identity: Identity, record: RequestRecord) -> Mapping[str, str]:
        """Count a request that the engine does not run; return the response's headers.

        Raises `RateLimitError` or `LimitsUnavailableError`.
        """
        limits = Limits(requests_per_minute=in_force(identity.limits, self._defaults).requests_per_minute)
        reservation = Reservation(self, identity.subject, limits, record, requests=1)
        async with reservation:
            return reservation.headers

    async def decide(self, request: ReservationRequest, record: RequestRecord) -> Decision:
        """The limiter's decision. Raises `LimitsUnavailableError`."""
        try:
            return await self.limiter.reserve(request)
        except LimitsUnavailableError:
            record.rejection = "limits_unavailable"
            raise

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
            self.limiter.renew([part for reservation in self.open for part in reservation.parts])
