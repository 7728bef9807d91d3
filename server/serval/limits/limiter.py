"""What every authority over limits can do, wherever it keeps its books."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from serval.limits.messages import Ask, Decision


class AuthorityAwayError(Exception):
    """The books are elsewhere and cannot be asked at the moment."""


class Limiter(Protocol):
    """Only `reserve` waits for an answer: what ends a reservation cannot be cancelled."""

    async def reserve(self, ask: Ask) -> Decision:
        """Reserve all that is asked for, or nothing. Raises `LimitsUnavailableError`, or `AuthorityAwayError`
        if it has nothing to fall back on."""

    def settle(self, ask: Ask, tokens: int) -> None:
        """The request used `tokens`. Only the first end of a reservation counts."""

    def close(self, ask: Ask) -> None:
        """The request never reached the engine."""

    def renew(self, asks: Sequence[Ask]) -> None:
        """Their requests are still running."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """What it does beside answering; to be entered before the first request."""
