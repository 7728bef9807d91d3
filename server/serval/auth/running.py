"""Requests that run now: those of a key that is withdrawn meanwhile are ended."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from serval.caller.identity import Identity
from serval.errors import AuthenticationError


class RunningRequests:
    """The running requests. `watch` ends those whose key is no longer accepted."""

    def __init__(self, is_accepted: Callable[[Identity], bool], *, check_every_s: float) -> None:
        self._is_accepted = is_accepted
        self._check_every_s = check_every_s
        self._running: set[RunningRequest] = set()

    def of(self, identity: Identity) -> "RunningRequest":
        """The context of a request of this caller, to be entered while it runs."""
        return RunningRequest(self._running, identity)

    async def watch(self) -> None:
        """Check periodically, until cancelled."""
        while True:
            await asyncio.sleep(self._check_every_s)
            self.end_withdrawn()

    def end_withdrawn(self) -> None:
        """End the requests whose key was revoked, has expired, or is no longer the operator's."""
        for request in self._running:
            if not self._is_accepted(request.identity):
                request.end()


class RunningRequest:
    """A request that runs while this is entered, in one task.

    Like `asyncio.timeout`, it turns a cancellation of its own into an error, here `AuthenticationError`.
    """

    __slots__ = ("_cancelling", "_ended", "_running", "_task", "identity")

    def __init__(self, running: "set[RunningRequest]", identity: Identity) -> None:
        self.identity = identity
        self._running = running
        self._ended = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._running.add(self)

    def end(self) -> None:
        """End the request with an error."""
        if not self._ended:
            self._ended = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.discard(self)
        if self._ended and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise AuthenticationError(
                "This API key expired or was revoked while the request ran. Ask the operator for a new one."
            ) from None
