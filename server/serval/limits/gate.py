"""Reservation of a request's use before it is worked on, and its settlement afterwards.

A call reserves twice: its requests of the engine before its prompt is rendered, so that a key over its limits
causes no work, and its tokens once the prompt is known; both under its key and, if that has one with limits,
under its team. All are reservations of their own and end together.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, NamedTuple

from msgspec.structs import replace

from serval.caller.budgets import Budget
from serval.caller.identity import Identity, Team
from serval.caller.limits import Limits, in_force
from serval.caller.prices import FREE
from serval.errors import ApiError, LimitsUnavailableError
from serval.limits.headers import limit_headers, never_fits, refusal, too_many_requests
from serval.limits.limiter import Limiter
from serval.limits.messages import Decision, ReservationRequest
from serval.telemetry.record import RequestRecord
from serval.wire.chat_response import Usage

# A lease survives two failed renewals.
_RENEWALS_PER_LEASE: Final = 3
_MINUTE_MS: Final = 60_000
# The owner of an account, in error messages.
_KEY: Final = "this API key"


class Account(NamedTuple):
    """An account that a call is counted under: its subject, its limits, and its owner in error messages."""

    subject: str
    limits: Limits
    owner: str


class Reservation:
    """A call's reservation: begun on entering, completed by `reserve_tokens`, ended at the latest on leaving.

    A reservation that is not settled by then never reached the engine; see `end_unused`.
    """

    __slots__ = (
        "__weakref__",
        "_accounts",
        "_gate",
        "_next_request_ms",
        "_price",
        "_record",
        "_requests",
        "headers",
        "parts",
    )

    def __init__(
        self, gate: "Gate", accounts: Sequence[Account], record: RequestRecord, *, requests: int
    ) -> None:
        """`accounts` are those of the key and its team, none without limits; `requests` are of the engine."""
        # For the response, however the request ends.
        self.headers: Mapping[str, str] = {}
        # Open reservations, of the requests and of the tokens.
        self.parts: list[ReservationRequest] = []
        self._gate = gate
        self._accounts = accounts
        self._record = record
        self._requests = requests
        # Kept, so that the books and the budgets agree when prices change.
        self._price = gate.price
        # Time after which the next request may be made, as far as known.
        self._next_request_ms = 0

    async def __aenter__(self) -> "Reservation":
        """Reserve the requests. Raises `RateLimitError` or `LimitsUnavailableError`."""
        try:
            for account in self._accounts:
                await self._reserve_requests(account)
        except BaseException:
            # Refused by the team: the key's own part is as if it had not been.
            self.settle(requests=0, tokens=0)
            raise
        return self

    async def _reserve_requests(self, account: Account) -> None:
        limits = account.limits
        if limits.requests is None:
            return
        part = ReservationRequest(
            self._part_id(account, "requests"), account.subject, limits.of_requests, requests=self._requests
        )
        decision = await self._reserve(part, account)
        if limits.requests_per_minute is not None and not decision.requests_remaining:
            next_ms = -(-_MINUTE_MS // limits.requests_per_minute)
            self._next_request_ms = max(self._next_request_ms, next_ms)

    async def reserve_tokens(
        self, *, prompt_tokens: int, completion_limit: int | None, context_room: int = 0
    ) -> None:
        """Reserve the tokens of all prompts together and of one completion for each request.

        `completion_limit` is in tokens for each completion. Without one, a completion is counted as
        `reserved_completion_tokens`, at most `context_room`, or as what a budget has left, until its length
        is known.
        Raises `InvalidRequestError` if the request can never fit the limits, and as `__aenter__` does, or
        `InsufficientQuotaError`.
        """
        for account in self._accounts:
            if account.limits.limits_tokens:
                await self._reserve_tokens(account, prompt_tokens, completion_limit, context_room)

    async def _reserve_tokens(
        self, account: Account, prompt_tokens: int, completion_limit: int | None, context_room: int
    ) -> None:
        limits, most = account.limits, account.limits.tokens
        usual = completion_limit
        if completion_limit is None:
            completion_limit = 1
            usual = max(1, min(self._gate.reserved_completion_tokens, context_room))
        assert usual is not None
        completion_tokens = completion_limit * self._requests
        least = prompt_tokens + completion_tokens
        if most is not None and least > most:
            self._record.rejection = "too_large"
            raise never_fits(
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                limits=limits,
                owner=account.owner,
            )
        tokens = prompt_tokens + usual * self._requests
        if most is not None:
            tokens = min(tokens, most)
        part = ReservationRequest(
            self._part_id(account, "tokens"),
            account.subject,
            limits.of_tokens,
            tokens,
            optional_tokens=tokens - least,
            cost=self._price.most(prompt_tokens, tokens - prompt_tokens),
            token_cost=self._price.completion,
        )
        await self._reserve(part, account)

    def _part_id(self, account: Account, kind: str) -> str:
        owner = "" if account is self._accounts[0] else "team-"
        return f"{self._record.request_id}-{owner}{kind}"

    async def _reserve(self, part: ReservationRequest, account: Account) -> Decision:
        decision = await self._gate.decide(part, self._record)
        headers = limit_headers(part.limits, decision)
        if decision.refused is None and account is not self._accounts[0]:
            # Clients get those of the key, and of the team those that the key has none of.
            headers = {**headers, **self.headers}
        self.headers = {**self.headers, **headers}
        if decision.soft:
            self._gate.note_soft_limits(part, decision)
        if decision.refused is not None:
            self._record.rejection = decision.refused
            # A request that is refused for its tokens has counted as a request.
            decision = replace(decision, wait_ms=max(decision.wait_ms, self._next_request_ms))
            raise refusal(decision, part, headers=self.headers, owner=account.owner)
        self.parts.append(part)
        self._gate.open.add(self)
        return decision

    def cost(self, usage: Usage) -> int:
        """The cost of what the engine used, by the prices when the call began."""
        return self._price.cost(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    def settle(self, *, requests: int, tokens: int, cost: int = 0) -> None:
        """End with what the engine used. Only the first call counts; it cannot be cancelled."""
        if not self.parts:
            return
        for part in self.parts:
            self._gate.limiter.settle(part, requests=requests, tokens=tokens, cost=cost)
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
        self.price = FREE
        # Called with the subject and the budget of a soft limit that was reached.
        self.on_soft_limit: Callable[[str, Budget], None] | None = None
        self.replace_defaults(defaults, reserved_completion_tokens=reserved_completion_tokens)

    def replace_defaults(self, defaults: Limits, *, reserved_completion_tokens: int) -> None:
        """Apply these to requests from now on. Existing reservations stay as they are."""
        self._defaults = defaults
        self.reserved_completion_tokens = reserved_completion_tokens

    def reservation(self, identity: Identity, record: RequestRecord, *, requests: int) -> Reservation:
        """The reservation of a call that makes `requests` of the engine, to be entered before any work.

        Raises `InvalidRequestError` if it can never fit the limits.
        """
        limits = in_force(identity.limits, self._defaults, identity.budgets)
        if identity.team is None and limits.unlimited:
            return Reservation(self, (), record, requests=requests)
        accounts = [Account(identity.subject, limits, _KEY)]
        if identity.team is not None:
            accounts.append(_of_team(identity.team))
        for account in accounts:
            most = account.limits.requests
            if most is not None and requests > most:
                record.rejection = "too_large"
                raise too_many_requests(requests, limits=account.limits, owner=account.owner)
        return Reservation(self, accounts, record, requests=requests)

    async def count(self, identity: Identity, record: RequestRecord) -> Mapping[str, str]:
        """Count a request that the engine does not run; return the response's headers.

        Raises `RateLimitError` or `LimitsUnavailableError`.
        """
        own = in_force(identity.limits, self._defaults).requests_per_minute
        accounts = [Account(identity.subject, Limits(requests_per_minute=own), _KEY)]
        if identity.team is not None:
            team = _of_team(identity.team)
            of_team = Limits(requests_per_minute=team.limits.requests_per_minute)
            accounts.append(team._replace(limits=of_team))
        reservation = Reservation(self, accounts, record, requests=1)
        async with reservation:
            return reservation.headers

    def note_soft_limits(self, request: ReservationRequest, decision: Decision) -> None:
        """Report the budgets whose soft limit was reached."""
        if self.on_soft_limit is not None:
            for index in decision.soft:
                self.on_soft_limit(request.subject, request.limits.counted[index])

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


def _of_team(team: Team) -> Account:
    return Account(team.subject, team.limits, f"the team {team.name!r} of this API key")
