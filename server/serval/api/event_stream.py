"""Sending server-sent events: the first byte early, pings in silence, an honest end."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial

from starlette.types import Send

from serval.api.http import ClientGoneError, send_message
from serval.errors import ApiError, InternalError
from serval.http.asgi import DirectWrites
from serval.telemetry.record import RequestRecord
from serval.telemetry.stopwatch import Phase
from serval.wire.chat_response import PING, error_event

logger = logging.getLogger(__name__)

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    # nginx buffers responses unless it is told not to.
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """One streamed response.

    An error before the first byte is raised, to become a response with its own status. One after it becomes
    an error event, with nothing behind it: a stream that ends without `[DONE]` is not complete.
    """

    def __init__(
        self,
        send: Send,
        direct: DirectWrites,
        *,
        record: RequestRecord,
        first_byte_s: float,
        ping_interval_s: float,
        headers: Mapping[str, str],
    ) -> None:
        """`headers` are sent beside those of every stream."""
        self._send_message = partial(send_message, send)
        self._direct = direct
        self._record = record
        self._headers = [*_HEADERS, *((name.encode(), value.encode()) for name, value in headers.items())]
        self._first_byte_s = first_byte_s
        self._ping_interval_s = ping_interval_s
        self._started = False
        # What `ready` has still to send, and who may: choices wait beside each other.
        self._held: list[bytes] = []
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._last_sent = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None

    async def run(self, write: Callable[["EventStream"], Awaitable[None]]) -> None:
        """Let `write` write its events to this stream, and send them."""
        self._look_again_in(self._first_byte_s)
        try:
            try:
                await write(self)
            except ClientGoneError:
                raise
            except Exception as error:
                if not self._started and not self._held:
                    raise
                self.write(error_event(self._as_api_error(error)))
            await self.ready()
        finally:
            self._stop_pings()
        await self._send_message({"type": "http.response.body", "body": b"", "more_body": False})

    def write(self, events: bytes) -> bool:
        """Send `events` now if that can be done without waiting. False: the caller has to await `ready`."""
        if self._started and not self._held and self._direct.write_chunk(events):
            self._last_sent = self._loop.time()
            return True
        self._held.append(events)
        return False

    async def ready(self) -> None:
        """Wait until the client has taken what was written, and can take more."""
        clock = self._record.clock
        clock.enter(Phase.CLIENT, time.perf_counter())
        try:
            await self._flush()
        finally:
            clock.enter(Phase.GATEWAY, time.perf_counter())

    async def _flush(self) -> None:
        async with self._lock:
            if self._held and not self._started:
                await self._send_message(
                    {"type": "http.response.start", "status": 200, "headers": self._headers}
                )
                self._started = True
            while self._held:
                # It is held until it is sent: what is written meanwhile must not overtake it.
                count, body = len(self._held), b"".join(self._held)
                await self._send_message({"type": "http.response.body", "body": body, "more_body": True})
                del self._held[:count]
        self._last_sent = self._loop.time()

    def _as_api_error(self, error: Exception) -> ApiError:
        if not isinstance(error, ApiError):
            logger.error("stream failed", exc_info=error)
            error = InternalError("The server had an internal error while it streamed this answer.")
        self._record.error_code = error.code
        return error

    # Pings. One timer looks whether the stream has been silent; only a ping that opens it needs a task.

    def _look_again_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        quiet_s = self._loop.time() - self._last_sent
        if self._started and quiet_s < self._ping_interval_s:
            self._look_again_in(self._ping_interval_s - quiet_s)
            return
        # A client that has not taken what came before needs no ping.
        if not self._held and not self.write(PING):
            self._opening = self._loop.create_task(self._send_ping())
        self._look_again_in(self._ping_interval_s)

    async def _send_ping(self) -> None:
        # The request goes on meanwhile, so this is not time spent in the phase CLIENT. A server may report a
        # disconnect here; it reports it again to the next write of an event.
        with suppress(ClientGoneError):
            await self._flush()

    def _stop_pings(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._timer is not None:
            self._timer.cancel()
