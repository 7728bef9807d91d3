"""The interface of limiters, wherever their ledger is."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from serval.limits.messages import Decision, ReservationRequest


class LedgerUnreachableError(Exception):
    """The ledger is in another process, which does not answer at the moment."""


class Limiter(Protocol):
    """Reservations in a ledger. Only `reserve` waits for an answer: ending one cannot be cancelled."""

    async def reserve(self, request: ReservationRequest) -> Decision:
        """Reserve everything requested, or nothing.

        Raises `LimitsUnavailableError`, or `LedgerUnreachableError` if there is no fallback.
        """

    def settle(self, request: ReservationRequest, *, requests: int, tokens: int, cost: int = 0) -> None:
        """End a reservation with what was used; zeros refund everything. Only the first end counts."""

    def renew(self, requests: Sequence[ReservationRequest]) -> None:
        """Renew the leases of all running requests."""

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Background work; entered before the first request and left after the last."""


class SharedLimiter(Limiter, Protocol):
    """A limiter whose ledger is in another process, which may be away."""

    def charge(self, request: ReservationRequest, day: int, *, tokens: int, cost: int) -> None:
        """Count use of budgets on `day` that was admitted, and has ended, while the ledger was away."""
