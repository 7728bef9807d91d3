"""The ledger of reservations: debits, concurrency slots and leases of all keys.

A reservation is open until the first of these; later ones change nothing:

settled    its use is known: what was not used is refunded, what was used beyond the reservation is charged
abandoned  its lease was not renewed, or its worker is gone: its slots are free again, its debit stays

The ledger knows neither clocks nor processes: times are passed in.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

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
        return int(((self.day + 1) * DAY_S - self.unix_s) * 1000) + 1


@dataclass(slots=True)
class _Reservation:
    account: "_Account"
    request: ReservationRequest
    tokens: int
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
        tokens = self._reservable(request, now)
        refused, wait_ms = self._refusal(account, request, tokens, now)
        if refused is None:
            self._debit(account, request, tokens, now)
        limits = request.limits
        of_requests = of_tokens = (0, 0)
        of_day: tuple[int, int] | tuple[None, None] = (None, None)
        if limits.requests_per_minute is not None:
            of_requests = account.requests.remaining(), account.requests.reset_ms()
        if limits.tokens_per_minute is not None:
            of_tokens = account.tokens.remaining(), account.tokens.reset_ms()
        if limits.tokens_per_day is not None:
            left = limits.tokens_per_day - self._daily.used(request.subject, now.day)
            of_day = max(0, left), now.next_day_ms
        return Decision(refused, wait_ms, *of_requests, *of_tokens, *of_day)

    def settle(self, reservation_id: str, *, requests: int, tokens: int, now: Moment) -> None:
        """End a reservation with what was used; zeros refund everything."""
        reservation = self._open.get(reservation_id)
        if reservation is None:
            return
        self.abandon(reservation_id)
        if reservation.expires_ms <= now.ms:
            return
        account, request = reservation.account, reservation.request
        if reservation.request_mark is not None:
            account.requests.drain(now.ms)
            account.requests.correct(request.requests, requests, reservation.request_mark)
        if reservation.token_mark is not None:
            account.tokens.drain(now.ms)
            account.tokens.correct(reservation.tokens, tokens, reservation.token_mark)
        if request.limits.tokens_per_day is not None:
            self._daily.record(request.subject, reservation.day, tokens - reservation.tokens)

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

    def _reservable(self, request: ReservationRequest, now: Moment) -> int:
        """The tokens to reserve: all, or without some of the optional ones."""
        budget = request.limits.tokens_per_day
        if budget is None:
            return request.tokens
        left = budget - self._daily.used(request.subject, now.day)
        return max(request.tokens - request.optional_tokens, min(request.tokens, left))

    def _refusal(
        self, account: _Account, request: ReservationRequest, tokens: int, now: Moment
    ) -> tuple[Dimension | None, int]:
        """The limit that refuses the request, and for how many milliseconds; of several, the longest."""
        limits = request.limits
        refused: Dimension | None = None
        wait_ms = 0
        if limits.requests_per_minute is not None:
            wait = _wait_ms(account.requests, request.requests, limits.requests_per_minute, now.ms)
            if wait > wait_ms:
                refused, wait_ms = "requests", wait
        if limits.tokens_per_minute is not None:
            wait = _wait_ms(account.tokens, tokens, limits.tokens_per_minute, now.ms)
            if wait > wait_ms:
                refused, wait_ms = "tokens", wait
        if wait_ms < RUNNING_WAIT_MS and self._is_full(account, request, now.ms):
            refused, wait_ms = "concurrency", RUNNING_WAIT_MS
        budget = limits.tokens_per_day
        if budget is not None and self._daily.used(request.subject, now.day) + tokens > budget:
            spent = self._daily.used(request.subject, now.day) - self._reserved(account, now)
            if spent + tokens > budget:
                refused, wait_ms = "budget", now.next_day_ms
            elif wait_ms < RUNNING_WAIT_MS:
                refused, wait_ms = "budget_reserved", RUNNING_WAIT_MS
        return refused, wait_ms

    def _debit(self, account: _Account, request: ReservationRequest, tokens: int, now: Moment) -> None:
        limits = request.limits
        if limits.tokens_per_day is not None:
            self._daily.record(request.subject, now.day, tokens)
        reservation = _Reservation(
            account,
            request,
            tokens,
            now.day,
            now.ms + self._lease_ms,
            None if limits.requests_per_minute is None else account.requests.debit(request.requests),
            None if limits.tokens_per_minute is None else account.tokens.debit(tokens),
        )
        self._open[request.id] = account.open[request.id] = reservation
        account.running += _slots(request)

    def _is_full(self, account: _Account, request: ReservationRequest, now_ms: int) -> bool:
        limit = request.limits.concurrent_requests
        if limit is None or account.running + request.requests <= limit:
            return False
        self._expire(account, now_ms)
        return account.running + request.requests > limit

    def _reserved(self, account: _Account, now: Moment) -> int:
        """The part of the day's use that open reservations hold, and may give back."""
        self._expire(account, now.ms)
        return sum(
            reservation.tokens
            for reservation in account.open.values()
            if reservation.day == now.day and reservation.request.limits.tokens_per_day is not None
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
