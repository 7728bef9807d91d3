"""The engine's slots: as many requests as it can work on go to it at once, the others wait here.

A slot that is free is taken without waiting for anything. All of this belongs to one event loop.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from serval.caller.priority import Priority
from serval.errors import EngineOverloadedError, ShuttingDownError
from serval.scheduling.fair_queue import FairQueue, QueueFullError, Ticket

_FULL_RETRY_AFTER_S = 5
_STOP_RETRY_AFTER_S = 1


class QueueMeter(Protocol):
    """Who is told what the queue does."""

    def queue_entered(self, priority: Priority) -> None:
        """A request waits."""
        ...

    def queue_left(self, priority: Priority) -> None:
        """A request waits no longer, for whatever reason."""
        ...


class EngineSlots:
    """`try_acquire` or `acquire` once for each request, then `release`."""

    def __init__(
        self,
        slots: int,
        *,
        queue_limit: int,
        timeout_s: float,
        meter: QueueMeter,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`queue_limit` is for each class; `timeout_s` is the longest that a request waits."""
        self._slots = slots
        self._free = slots
        self._queue = FairQueue(queue_limit)
        self._granted: dict[Ticket, asyncio.Future[None]] = {}
        self._timeout_s = timeout_s
        self._meter = meter
        self._now = now
        self._stopping = False
        self._idle = asyncio.Event()

    @property
    def in_use(self) -> int:
        """Slots that are taken."""
        return self._slots - self._free

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def stopping(self) -> bool:
        """Whether no new requests are taken."""
        return self._stopping

    def try_acquire(self) -> bool:
        """Take a slot if one is free and nobody waits for it. Raises `ShuttingDownError`."""
        if self._stopping:
            raise ShuttingDownError(
                "This server is being stopped. Try again shortly.", retry_after_s=_STOP_RETRY_AFTER_S
            )
        if self._free and not self._queue:
            self._free -= 1
            return True
        return False

    async def acquire(self, key: str | None, priority: Priority, tokens: int) -> None:
        """Take a slot when it is this request's turn.

        Raises `EngineOverloadedError` if too many wait, or when it has waited for too long.
        """
        ticket = Ticket(key, priority, max(tokens, 1), arrived=self._now())
        try:
            victim = self._queue.push(ticket)
        except QueueFullError:
            raise _queue_full() from None
        granted = self._granted[ticket] = asyncio.get_running_loop().create_future()
        if victim is not None:
            self._refuse(victim, _queue_full())
        self._meter.queue_entered(priority)
        try:
            async with asyncio.timeout(self._timeout_s):
                await granted
        except BaseException as error:
            self._leave(ticket, granted)
            if isinstance(error, TimeoutError):
                raise EngineOverloadedError(
                    f"The request waited {self._timeout_s:g} s for the engine, which has too much to do."
                    " Try again later.",
                    code="queue_timeout",
                    retry_after_s=_FULL_RETRY_AFTER_S,
                ) from None
            raise
        finally:
            del self._granted[ticket]
            self._meter.queue_left(priority)

    def release(self) -> None:
        """Return a slot; whoever is next takes it."""
        self._free += 1
        while self._free and self._queue:
            granted = self._granted[self._queue.pop(self._now())]
            # One that has just been cancelled has not left yet.
            if not granted.done():
                granted.set_result(None)
                self._free -= 1
        self._note_idle()

    async def stop(self, *, grace_s: float) -> bool:
        """Take no new requests; wait until the others are over, at most `grace_s`. False if some are not.

        Those that still wait then are refused.
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

    def _leave(self, ticket: Ticket, granted: "asyncio.Future[None]") -> None:
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            # It was its turn in the same moment.
            self.release()
        else:
            self._queue.discard(ticket)
            self._note_idle()

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        granted = self._granted[ticket]
        if not granted.done():
            granted.set_exception(error)

    def _note_idle(self) -> None:
        if self._stopping and self._free == self._slots and not self._queue:
            self._idle.set()


def _queue_full() -> EngineOverloadedError:
    return EngineOverloadedError(
        "Too many requests wait for the engine. Try again later.", retry_after_s=_FULL_RETRY_AFTER_S
    )
