"""Sending server-sent events: the first byte early, pings in silence, an honest end."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.types import Receive, Send

from serval.api.http import ClientGoneError, cancel_and_wait, wait_for_disconnect
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
        self, send: Send, *, record: RequestRecord, first_byte_s: float, ping_interval_s: float
    ) -> None:
        self._send = send
        self._record = record
        self._first_byte_s = first_byte_s
        self._ping_interval_s = ping_interval_s
        # Events and pings are sent by two tasks.
        self._lock = asyncio.Lock()
        self._started = False
        self._last_sent = time.monotonic()

    async def run(self, events: AsyncGenerator[bytes, None], receive: Receive) -> None:
        """Send `events` until they end. Raises `ClientGoneError` when the client has gone."""
        writer = asyncio.create_task(self._write(events))
        gone = asyncio.create_task(wait_for_disconnect(receive))
        try:
            timeout_s = self._first_byte_s
            while not writer.done():
                await asyncio.wait({writer, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if writer.done():
                    break
                if gone.done():
                    raise ClientGoneError
                quiet_s = time.monotonic() - self._last_sent
                if not self._started or quiet_s >= self._ping_interval_s:
                    await self._send_body(PING)
                    quiet_s = 0.0
                timeout_s = self._ping_interval_s - quiet_s
            await self._end(writer)
        finally:
            await cancel_and_wait(gone, writer)

    async def _write(self, events: AsyncGenerator[bytes, None]) -> None:
        async with aclosing(events):
            async for event in events:
                await self._send_body(event)

    async def _send_body(self, body: bytes) -> None:
        async with self._lock:
            if not self._started:
                self._started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            self._last_sent = time.monotonic()

    async def _end(self, writer: "asyncio.Task[None]") -> None:
        error = writer.exception()
        if error is not None:
            if not self._started:
                raise error
            if not isinstance(error, ApiError):
                logger.error("stream failed", exc_info=error)
                error = InternalError("The server had an internal error while it streamed this answer.")
            self._record.error_code = error.code
            await self._send_body(error_event(error))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
