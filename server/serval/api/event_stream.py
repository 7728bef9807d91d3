"""Sending server-sent events: the first byte early, pings in silence, an honest end."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.types import Send

from serval.errors import ApiError, InternalError
from serval.telemetry.record import RequestRecord
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
        *,
        record: RequestRecord,
        first_byte_s: float,
        ping_interval_s: float,
        headers: Mapping[str, str],
    ) -> None:
        """`headers` are sent beside those of every stream."""
        self._send = send
        self._record = record
        self._headers = [*_HEADERS, *((name.encode(), value.encode()) for name, value in headers.items())]
        self._first_byte_s = first_byte_s
        self._ping_interval_s = ping_interval_s
        # A ping is sent by a task of its own.
        self._lock = asyncio.Lock()
        self._started = False
        self._loop = asyncio.get_running_loop()
        self._last_sent = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None

    async def run(self, events: AsyncGenerator[bytes, None]) -> None:
        """Send `events` until they end."""
        self._look_again_in(self._first_byte_s)
        try:
            async with aclosing(events):
                async for event in events:
                    await self._send_body(event)
        except Exception as error:
            if not self._started:
                raise
            await self._send_body(error_event(self._as_api_error(error)))
        finally:
            self._stop_pings()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_body(self, body: bytes) -> None:
        async with self._lock:
            sent = self._loop.time()
            if not self._started:
                self._started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            now = self._loop.time()
            self._record.client_s += now - sent
            self._last_sent = now

    def _as_api_error(self, error: Exception) -> ApiError:
        if not isinstance(error, ApiError):
            logger.error("stream failed", exc_info=error)
            error = InternalError("The server had an internal error while it streamed this answer.")
        self._record.error_code = error.code
        return error

    # Pings. One timer looks whether the stream has been silent; only a ping itself needs a task.

    def _look_again_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        quiet_s = self._loop.time() - self._last_sent
        if self._started and quiet_s < self._ping_interval_s:
            self._look_again_in(self._ping_interval_s - quiet_s)
        else:
            self._ping = self._loop.create_task(self._send_ping())

    async def _send_ping(self) -> None:
        await self._send_body(PING)
        self._look_again_in(self._ping_interval_s)

    def _stop_pings(self) -> None:
        if self._ping is not None:
            self._ping.cancel()
        if self._timer is not None:
            self._timer.cancel()
