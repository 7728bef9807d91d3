"""The ledger of reservations: debits, concurrency slots and leases of all keys.

A reservation is open until the first of these; later ones change nothing:

settled    its use is known: what was not used is refunded, what was used beyond the reservation is charged
abandoned  its lease was not renewed, or its worker is gone: its slots are free again, its debit stays

The ledger knows neither clocks nor processes: times are passed in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from serval.caller.budgets import Budget, Unit, Used, period_days
from serval.limits.bucket import Bucket
from serval.limits.daily_use import DAY_S, DailyUse
from serval.limits.messages import Decision, Dimension, ReservationRequest

# The end of a running request is unknown; clients that wait for one should retry after this time.
RUNNING_WAIT_MS: Final = 1000


class Moment(NamedTuple):
    """A time on both clocks: monotonic milliseconds, and Unix time, which may be adjusted."""

    ms: int
    unix_s: float

    @property
    def day(self) -> int:
        """The day in UTC, counted from 1970."""
        return int(self.unix_s // DAY_S)

    @property
    def next_day_ms(self) -> int:
        """Milliseconds until the next day in UTC, rounded up."""
        return self.until_day_ms(self.day + 1)

    def until_day_ms(self, day: int) -> int:
        """Milliseconds until `day` begins in UTC, rounded up."""
        return int((day * DAY_S - self.unix_s) * 1000) + 1


class _Amounts(NamedTuple):
    """Tokens and their cost."""

    tokens: int
    cost: int

    def of(self, unit: Unit) -> int:
        return self.tokens if unit == "tokens" else self.cost

    def settled(self, tokens: int, cost: int) -> Used:
        """The change when these are settled: real use takes their place, and nothing is held."""
        return Used(tokens - self.tokens, cost - self.cost, -self.tokens, -self.cost)


# Budgets of a request, each with the part of it that is used, including reserved amounts.
_Uses = Sequence[tuple[Budget, int]]


@dataclass(slots=True)
class _Reservation:
    account: "_Account"
    request: ReservationRequest
    amounts: _Amounts
    day: int
    expires_ms: int
    # Marks of the debits in their buckets; None: no such limit.
    request_mark: int | None
    token_mark: int | None


@dataclass(slots=True)
class _Account:
    requests: Bucket
    tokens: Bucket
    open: dict[str, _Reservation] = field(default_factory=dict)
    # Requests of the engine that count against the limit of concurrency.
    running: int = 0
    # No reservation expires before this.
    next_expiry_ms: int = 0


class Ledger:
    """The reservations of all keys. The scripts in Redis follow this class line by line."""

    def __init__(self, daily: DailyUse, *, lease_ms: int) -> None:
        """`lease_ms` is the life of a reservation that is not renewed."""
        self._daily = daily
        self._lease_ms = lease_ms
        self._accounts: dict[str, _Account] = {}
        self._open: dict[str, _Reservation] = {}

    @property
    def subject_count(self) -> int:
        """Number of keys with an account."""
        return len(self._accounts)

    def reserve(self, request: ReservationRequest, now: Moment) -> Decision:
        """Reserve everything requested, or nothing."""
        account = self._accounts.get(request.subject)
        if account is None:
            account = self._accounts[request.subject] = _Account(Bucket(now.ms), Bucket(now.ms))
        limits = request.limits
        uses = [(budget, self._used(request.subject, budget, now)) for budget in limits.counted]
        amounts = self._reservable(request, uses)
        soft = self._soft(account, uses, now)
        refused, wait_ms, budget = self._refusal(account, request, amounts, uses, now)
        if refused is None:
            self._debit(account, request, amounts, now)
        of_requests = of_tokens = (0, 0)
        day_remaining: int | None = None
        day_reset_ms: int | None = None
        if limits.requests_per_minute is not None:
            of_requests = account.requests.remaining(), account.requests.reset_ms()
        if limits.tokens_per_minute is not None:
            of_tokens = account.tokens.remaining(), account.tokens.reset_ms()
        if limits.tokens_per_day is not None:
            left = limits.tokens_per_day - self._daily.used(request.subject, now.day)
            day_remaining, day_reset_ms = max(0, left), now.next_day_ms
        of_all = (*of_requests, *of_tokens, day_remaining, day_reset_ms)
        return Decision(refused, wait_ms, *of_all, budget, soft)

    def settle(self, reservation_id: str, *, requests: int, tokens: int, cost: int = 0, now: Moment) -> None:
        """End a reservation with what was used; zeros refund everything."""
        reservation = self._open.get(reservation_id)
        if reservation is None:
            return
        self.abandon(reservation_id)
        if reservation.expires_ms <= now.ms:
            return
        account, request, reserved = reservation.account, reservation.request, reservation.amounts
        if reservation.request_mark is not None:
            account.requests.drain(now.ms)
            account.requests.correct(request.requests, requests, reservation.request_mark)
        if reservation.token_mark is not None:
            account.tokens.drain(now.ms)
            account.tokens.correct(reserved.tokens, tokens, reservation.token_mark)
        if request.limits.counted:
            self._daily.record(request.subject, reservation.day, reserved.settled(tokens, cost))

    def charge(self, subject: str, day: int, *, tokens: int, cost: int) -> None:
        """Count use of budgets that was not reserved here."""
        self._daily.record(subject, day, Used(tokens, cost))

    def abandon(self, reservation_id: str) -> None:
        """End a reservation whose use will stay unknown: free its slots, keep its debit."""
        reservation = self._open.pop(reservation_id, None)
        if reservation is not None:
            del reservation.account.open[reservation_id]
            reservation.account.running -= _slots(reservation.request)

    def renew(self, reservation_ids: Iterable[str], now: Moment) -> None:
        """Renew the leases of reservations whose requests still run."""
        for reservation_id in reservation_ids:
            reservation = self._open.get(reservation_id)
            if reservation is not None and reservation.expires_ms > now.ms:
                reservation.expires_ms = now.ms + self._lease_ms

    def sweep(self, now: Moment) -> None:
        """Abandon reservations that were not renewed, and drop accounts that are empty."""
        for subject, account in list(self._accounts.items()):
            self._expire(account, now.ms)
            account.requests.drain(now.ms)
            account.tokens.drain(now.ms)
            if not account.open and account.requests.level == account.tokens.level == 0:
                del self._accounts[subject]

    def _used(self, subject: str, budget: Budget, now: Moment) -> int:
        """The part of the budget that is used, including reserved amounts."""
        return self._daily.used_in(subject, period_days(budget.period, now.day), budget.unit)

    @staticmethod
    def _reservable(request: ReservationRequest, uses: _Uses) -> _Amounts:
        """The tokens to reserve and their cost: all, or without some of the optional ones."""
        tokens, cost, optional = request.tokens, request.cost, request.optional_tokens
        left_out = 0
        for budget, used in uses:
            if budget.hard is None:
                continue
            left = budget.hard - used
            if budget.unit == "tokens":
                left_out = max(left_out, tokens - left)
            elif request.token_cost:
                # Rounded up, so that the rest fits.
                left_out = max(left_out, -((left - cost) // request.token_cost))
        left_out = min(left_out, optional)
        return _Amounts(tokens - left_out, cost - left_out * request.token_cost)

    def _soft(self, account: _Account, uses: _Uses, now: Moment) -> tuple[int, ...]:
        """Indices of the budgets whose soft limit was reached, without what is reserved."""
        return tuple(
            index
            for index, (budget, used) in enumerate(uses)
            if budget.soft is not None
            and used >= budget.soft
            and used - self._reserved(account, budget, now) >= budget.soft
        )

    def _refusal(
        self, account: _Account, request: ReservationRequest, amounts: _Amounts, uses: _Uses, now: Moment
    ) -> tuple[Dimension | None, int, int | None]:
        """The limit that refuses the request, for how many milliseconds, and the index of the budget.

        Of several limits, the one that refuses it for longest.
        """
        limits = request.limits
        refused: Dimension | None = None
        wait_ms = 0
        refusing: int | None = None
        if limits.requests_per_minute is not None:
            wait = _wait_ms(account.requests, request.requests, limits.requests_per_minute, now.ms)
            if wait > wait_ms:
                refused, wait_ms = "requests", wait
        if limits.tokens_per_minute is not None:
            wait = _wait_ms(account.tokens, amounts.tokens, limits.tokens_per_minute, now.ms)
            if wait > wait_ms:
                refused, wait_ms = "tokens", wait
        if wait_ms < RUNNING_WAIT_MS and self._is_full(account, request, now.ms):
            refused, wait_ms = "concurrency", RUNNING_WAIT_MS
        for index, (budget, used) in enumerate(uses):
            amount = amounts.of(budget.unit)
            if budget.hard is None or used + amount <= budget.hard:
                continue
            if used - self._reserved(account, budget, now) + amount > budget.hard:
                wait = now.until_day_ms(period_days(budget.period, now.day).stop)
                if refused != "budget" or wait > wait_ms:
                    refused, wait_ms, refusing = "budget", wait, index
            elif wait_ms < RUNNING_WAIT_MS:
                refused, wait_ms, refusing = "budget_reserved", RUNNING_WAIT_MS, index
        return refused, wait_ms, refusing

    def _debit(self, account: _Account, request: ReservationRequest, amounts: _Amounts, now: Moment) -> None:
        limits = request.limits
        if limits.counted:
            self._daily.record(request.subject, now.day, Used(*amounts, *amounts))
        reservation = _Reservation(
            account,
            request,
            amounts,
            now.day,
            now.ms + self._lease_ms,
            None if limits.requests_per_minute is None else account.requests.debit(request.requests),
            None if limits.tokens_per_minute is None else account.tokens.debit(amounts.tokens),
        )
        self._open[request.id] = account.open[request.id] = reservation
        account.running += _slots(request)

    def _is_full(self, account: _Account, request: ReservationRequest, now_ms: int) -> bool:
        limit = request.limits.concurrent_requests
        if limit is None or account.running + request.requests <= limit:
            return False
        self._expire(account, now_ms)
        return account.running + request.requests > limit

    def _reserved(self, account: _Account, budget: Budget, now: Moment) -> int:
        """The part of the budget's use that open reservations hold, and may give back."""
        self._expire(account, now.ms)
        days = period_days(budget.period, now.day)
        return sum(
            reservation.amounts.of(budget.unit)
            for reservation in account.open.values()
            if reservation.day in days and reservation.request.limits.counted
        )

    def _expire(self, account: _Account, now_ms: int) -> None:
        if now_ms < account.next_expiry_ms:
            return
        for reservation_id, reservation in list(account.open.items()):
            if reservation.expires_ms <= now_ms:
                self.abandon(reservation_id)
        account.next_expiry_ms = min(
            (reservation.expires_ms for reservation in account.open.values()),
            default=now_ms + self._lease_ms,
        )


def _slots(request: ReservationRequest) -> int:
    return 0 if request.limits.concurrent_requests is None else request.requests


def _wait_ms(bucket: Bucket, cost: int, limit: int, now_ms: int) -> int:
    bucket.drain(now_ms)
    bucket.limit = limit
    return bucket.wait_ms(cost)
