"""Slots of the engine or of threads: as many requests as there are slots are worked on, the others wait.

A free slot is taken without awaiting anything. Everything here belongs to one event loop.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from serval.caller.priority import Priority
from serval.errors import EngineOverloadedError, ShuttingDownError
from serval.scheduling.fair_queue import FairQueue, QueueFullError, Ticket

_FULL_RETRY_AFTER_S = 5
_STOP_RETRY_AFTER_S = 1


class QueueMeter(Protocol):
    """Observer of the queue."""

    def queue_entered(self, priority: Priority) -> None:
        """Note that a request has begun to wait."""
        ...

    def queue_left(self, priority: Priority) -> None:
        """Note that a request has stopped waiting, for any reason."""
        ...


T = TypeVar("T")


class WaitingRoom(Generic[T]):
    """Requests that wait in a fair queue to be granted something; kinds of slots derive from it."""

    def __init__(
        self,
        *,
        queue_limit: int,
        timeout_s: float,
        meter: QueueMeter | None = None,
        wanted: str = "the engine",
        retry_after_s: Callable[[], int] = lambda: _FULL_RETRY_AFTER_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`queue_limit` is for each class; a request waits `timeout_s` at most.

        `wanted` says in errors what is waited for; `retry_after_s` tells when to try again.
        """
        self._queue = FairQueue(queue_limit)
        self._granted: dict[Ticket, asyncio.Future[T]] = {}
        self._timeout_s = timeout_s
        self._meter = meter
        self._wanted = wanted
        self._retry_after_s = retry_after_s
        self._now = now
        self._stopping = False
        self._idle = asyncio.Event()

    @property
    def in_use(self) -> int:
        """Number of slots in use."""
        raise NotImplementedError

    def _give_back(self, grant: T) -> None:
        """Give back what was granted to a request that had just left."""
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._queue)

    @property
    def stopping(self) -> bool:
        """True if new requests are refused."""
        return self._stopping

    def _check_running(self) -> None:
        if self._stopping:
            raise ShuttingDownError(
                "This server is being stopped. Try again shortly.", retry_after_s=_STOP_RETRY_AFTER_S
            )

    async def _wait(self, ticket: Ticket) -> T:
        """Wait for the ticket's turn. Raises as `Slots.acquire` does."""
        try:
            victim = self._queue.push(ticket)
        except QueueFullError:
            raise self._queue_full() from None
        granted: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._granted[ticket] = granted
        if victim is not None:
            self._refuse(victim, self._queue_full())
        if self._meter is not None:
            self._meter.queue_entered(ticket.priority)
        try:
            async with asyncio.timeout(self._timeout_s - (self._now() - ticket.arrived)):
                return await granted
        except BaseException as error:
            self._leave(ticket, granted)
            if isinstance(error, TimeoutError):
                raise EngineOverloadedError(
                    f"The request waited {self._timeout_s:g} s for {self._wanted}, which has too much to do."
                    " Try again later.",
                    code="queue_timeout",
                    retry_after_s=self._retry_after_s(),
                ) from None
            raise
        finally:
            del self._granted[ticket]
            if self._meter is not None:
                self._meter.queue_left(ticket.priority)

    async def stop(self, *, grace_s: float) -> bool:
        """Refuse new requests, and wait at most `grace_s` for the others. Return False if some remain.

        Requests still in the queue by then are refused.
        """
        self._stopping = True
        self._note_idle()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            for ticket in list(self._granted):
                self._queue.discard(ticket)
                self._refuse(ticket, ShuttingDownError("This server was stopped before the engine was free."))
            return False
        return True

    def _leave(self, ticket: Ticket, granted: "asyncio.Future[T]") -> None:
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            # The slot was granted just before the request left.
            self._give_back(granted.result())
        else:
            self._queue.discard(ticket)
            self._note_idle()

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        granted = self._granted[ticket]
        if not granted.done():
            granted.set_exception(error)

    def _note_idle(self) -> None:
        if self._stopping and not self.in_use and not self._queue:
            self._idle.set()

    def _queue_full(self) -> EngineOverloadedError:
        return EngineOverloadedError(
            f"Too many requests wait for {self._wanted}. Try again later.",
            retry_after_s=self._retry_after_s(),
        )


class Slots(WaitingRoom[None]):
    """Call `try_acquire` or `acquire` once for each request, then `release`."""

    def __init__(
        self,
        slots: int,
        *,
        queue_limit: int,
        timeout_s: float,
        meter: QueueMeter | None = None,
        wanted: str = "the engine",
        retry_after_s: Callable[[], int] = lambda: _FULL_RETRY_AFTER_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """See `WaitingRoom`."""
        super().__init__(
            queue_limit=queue_limit,
            timeout_s=timeout_s,
            meter=meter,
            wanted=wanted,
            retry_after_s=retry_after_s,
            now=now,
        )
        self._slots = slots
        self._free = slots

    @property
    def in_use(self) -> int:
        """See `WaitingRoom`."""
        return self._slots - self._free

    def try_acquire(self) -> bool:
        """Take a slot if one is free and no request waits for it. Raises `ShuttingDownError`."""
        self._check_running()
        if self._free and not self._queue:
            self._free -= 1
            return True
        return False

    async def acquire(
        self, key: str | None, priority: Priority, tokens: int, *, waited_s: float = 0.0
    ) -> None:
        """Wait for this request's turn, and take a slot; it has waited for `waited_s` elsewhere.

        Raises `EngineOverloadedError` if too many wait, or when it has waited for too long.
        """
        await self._wait(Ticket(key, priority, max(tokens, 1), arrived=self._now() - waited_s))

    def release(self) -> None:
        """Give a slot back, and grant it to the next request."""
        self._free += 1
        while self._free and self._queue:
            granted = self._granted[self._queue.pop(self._now())]
            # A request that was just cancelled has not left the queue yet.
            if not granted.done():
                granted.set_result(None)
                self._free -= 1
        self._note_idle()

    def _give_back(self, grant: None) -> None:
        self.release()
