"""What every authority over limits can do, wherever it keeps its books."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from serval.limits.messages import Decision, ReservationRequest


class LedgerUnreachableError(Exception):
    """The books are elsewhere and cannot be asked at the moment."""


class Limiter(Protocol):
    """Only `reserve` waits for an answer: what ends a reservation cannot be cancelled."""

    async def reserve(self, request: ReservationRequest) -> Decision:
        """Reserve everything requested, or nothing.

        Raises `LimitsUnavailableError`, or `LedgerUnreachableError` if there is no fallback.
        """

    def settle(self, request: ReservationRequest, tokens: int) -> None:
        """The request used `tokens`. Only the first end of a reservation counts."""

    def close(self, request: ReservationRequest) -> None:
        """The request never reached the engine."""

    def renew(self, requests: Sequence[ReservationRequest]) -> None:
        """Their requests are still running."""

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """What it does beside answering; to be entered before the first request."""
