"""Server-sent events: an early first byte, pings during silence, and errors after the first byte."""

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
from serval.telemetry.stopwatch import CLIENT, GATEWAY
from serval.wire.chat_response import PING

logger = logging.getLogger(__name__)

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    # nginx buffers responses unless it is told not to.
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """One streamed response.

    An error before the first byte is raised, to become a response with its own status. A later one becomes
    the last event: a stream that ends without its last event, such as `[DONE]`, is not complete.
    """

    def __init__(
        self,
        send: Send,
        direct: DirectWrites,
        *,
        record: RequestRecord,
        first_byte_s: float,
        ping_interval_s: float,
        headers: Callable[[], Mapping[str, str]],
        error_event: Callable[[ApiError], bytes],
    ) -> None:
        """`headers` returns those to be sent in addition to those of every stream; called when it begins.

        `error_event` makes the last event of a stream that fails.
        """
        self._send_message = partial(send_message, send)
        self._direct = direct
        self._record = record
        self._headers = headers
        self._error_event = error_event
        self._first_byte_s = first_byte_s
        self._ping_interval_s = ping_interval_s
        self._started = False
        # Events not sent yet, and a lock for sending them, as several choices may wait at once.
        self._held: list[bytes] = []
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._last_sent = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None

    async def run(self, write: Callable[["EventStream"], Awaitable[None]]) -> None:
        """Call `write` to write its events to this stream, and send them."""
        self._check_again_in(self._first_byte_s)
        try:
            try:
                await write(self)
            except ClientGoneError:
                raise
            except Exception as error:
                if not self._started and not self._held:
                    raise
                self.write(self._error_event(self._as_api_error(error)))
            await self.ready()
        finally:
            self._stop_pings()
        await self._send_message({"type": "http.response.body", "body": b"", "more_body": False})

    def write(self, events: bytes) -> bool:
        """Send `events` if that is possible without waiting. If it returns False, await `ready`."""
        if self._started and not self._held and self._direct.write_chunk(events):
            self._last_sent = self._loop.time()
            return True
        self._held.append(events)
        return False

    async def ready(self) -> None:
        """Wait until the client has received what was written, and can take more."""
        clock = self._record.clock
        clock.enter(CLIENT, time.perf_counter())
        try:
            await self._flush()
        finally:
            clock.enter(GATEWAY, time.perf_counter())

    async def _flush(self) -> None:
        async with self._lock:
            if self._held and not self._started:
                headers = [(name.encode(), value.encode()) for name, value in self._headers().items()]
                await self._send_message(
                    {"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]}
                )
                self._started = True
            while self._held:
                # Events stay in `_held` until they are sent: later ones must not overtake them.
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

    # Pings. One timer checks for silence. Only a ping that cannot be sent directly needs a task.

    def _check_again_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._check_silence)

    def _check_silence(self) -> None:
        quiet_s = self._loop.time() - self._last_sent
        if self._started and quiet_s < self._ping_interval_s:
            self._check_again_in(self._ping_interval_s - quiet_s)
            return
        # A client that has yet to take earlier events needs no ping.
        if not self._held and not self.write(PING):
            self._opening = self._loop.create_task(self._send_ping())
        self._check_again_in(self._ping_interval_s)

    async def _send_ping(self) -> None:
        # The request continues meanwhile, so this time does not count as the phase CLIENT. A disconnect
        # reported here is reported again when the next event is sent.
        with suppress(ClientGoneError):
            await self._flush()

    def _stop_pings(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._timer is not None:
            self._timer.cancel()
