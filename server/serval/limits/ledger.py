"""The ledger of reservations: debits, concurrency slots and leases of all keys.

A reservation is open until the first of these; later ones change nothing:

settled    the request has ended: unused tokens are refunded, tokens used beyond the reservation are charged
closed     the request never reached the engine: everything is refunded, the request itself too
abandoned  its lease was not renewed, or its worker is gone: its slot is free again, its debit stays

The ledger knows neither clocks nor processes: times are passed in.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from serval.limits.bucket import Bucket
from serval.limits.daily_use import DAY_S, DailyUse
from serval.limits.messages import Decision, Dimension, ReservationRequest

# The end of a running request is unknown; refused clients should retry after this time.
CONCURRENCY_WAIT_MS: Final = 1000


class Moment(NamedTuple):
    """A time on both clocks: monotonic milliseconds, and Unix time, which may be adjusted."""

    ms: int
    unix_s: float

    @property
    def day(self) -> int:
        """The day in UTC, counted from 1970."""
        return int(self.unix_s // DAY_S)


@dataclass(slots=True)
class _Reservation:
    account: "_Account"
    request: ReservationRequest
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
        refused, wait_ms = self._refusal(account, request, now)
        if refused is None:
            self._debit(account, request, now)
        limits, decision = request.limits, [0, 0, 0, 0]
        if limits.requests_per_minute is not None:
            decision[:2] = account.requests.remaining(), account.requests.reset_ms()
        if limits.tokens_per_minute is not None:
            decision[2:] = account.tokens.remaining(), account.tokens.reset_ms()
        return Decision(refused, wait_ms, *decision)

    def settle(self, reservation_id: str, tokens: int, now: Moment) -> None:
        """End a reservation: the request has ended and used `tokens`."""
        self._end(reservation_id, requests=1, tokens=tokens, now=now)

    def close(self, reservation_id: str, now: Moment) -> None:
        """End a reservation: the request never reached the engine."""
        self._end(reservation_id, requests=0, tokens=0, now=now)

    def abandon(self, reservation_id: str) -> None:
        """End a reservation whose use will stay unknown: free its slot, keep its debit."""
        reservation = self._open.pop(reservation_id, None)
        if reservation is not None:
            del reservation.account.open[reservation_id]

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

    def _refusal(
        self, account: _Account, request: ReservationRequest, now: Moment
    ) -> tuple[Dimension | None, int]:
        """The limit that refuses the request, and for how many milliseconds; of several, the longest."""
        limits = request.limits
        refused: Dimension | None = None
        wait_ms = 0
        if limits.requests_per_minute is not None:
            wait = _wait_ms(account.requests, 1, limits.requests_per_minute, now.ms)
            if wait > wait_ms:
                refused, wait_ms = "requests", wait
        if limits.tokens_per_minute is not None:
            wait = _wait_ms(account.tokens, request.tokens, limits.tokens_per_minute, now.ms)
            if wait > wait_ms:
                refused, wait_ms = "tokens", wait
        if wait_ms < CONCURRENCY_WAIT_MS and self._is_full(account, limits.concurrent_requests, now.ms):
            refused, wait_ms = "concurrency", CONCURRENCY_WAIT_MS
        budget = limits.tokens_per_day
        if budget is not None and self._daily.used(request.subject, now.day) + request.tokens > budget:
            refused, wait_ms = "budget", int(((now.day + 1) * DAY_S - now.unix_s) * 1000) + 1
        return refused, wait_ms

    def _debit(self, account: _Account, request: ReservationRequest, now: Moment) -> None:
        limits = request.limits
        if limits.tokens_per_day is not None:
            self._daily.record(request.subject, now.day, request.tokens)
        reservation = _Reservation(
            account,
            request,
            now.day,
            now.ms + self._lease_ms,
            None if limits.requests_per_minute is None else account.requests.debit(1),
            None if limits.tokens_per_minute is None else account.tokens.debit(request.tokens),
        )
        self._open[request.id] = account.open[request.id] = reservation

    def _end(self, reservation_id: str, *, requests: int, tokens: int, now: Moment) -> None:
        reservation = self._open.get(reservation_id)
        if reservation is None:
            return
        self.abandon(reservation_id)
        if reservation.expires_ms <= now.ms:
            return
        account, request = reservation.account, reservation.request
        if reservation.request_mark is not None:
            account.requests.drain(now.ms)
            account.requests.correct(1, requests, reservation.request_mark)
        if reservation.token_mark is not None:
            account.tokens.drain(now.ms)
            account.tokens.correct(request.tokens, tokens, reservation.token_mark)
        if request.limits.tokens_per_day is not None:
            self._daily.record(request.subject, reservation.day, tokens - request.tokens)

    def _is_full(self, account: _Account, limit: int | None, now_ms: int) -> bool:
        if limit is None or len(account.open) < limit:
            return False
        self._expire(account, now_ms)
        return len(account.open) >= limit

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


def _wait_ms(bucket: Bucket, cost: int, limit: int, now_ms: int) -> int:
    bucket.drain(now_ms)
    bucket.limit = limit
    return bucket.wait_ms(cost)
