"""HTTP/1.1 exchanges with the engine over bare asyncio connections.

Only for `/generate`, whose answers come as one small event for each token: a general HTTP client spends
several times more on passing on such an event than the gateway spends on everything else.
"""

import asyncio
import enum
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from serval.errors import SettingsError

# SGLang's HTTP server closes idle connections after 5 s. Do not reuse one that it may be closing.
IDLE_S = 2.0
OK = 200
# Pause reading from the engine above this many buffered bytes.
BUFFER_BYTES = 1 << 20


class NotReachedError(Exception):
    """The engine could not be reached, or closed the connection before it began to answer."""

    # It may have received the request, and the connection had been used before.
    sent = True
    reused = False


class NotConnectedError(NotReachedError):
    """No connection could be opened."""

    sent = False


class BrokenAnswerError(Exception):
    """The answer ended before it was complete, or is not valid HTTP."""


class StalledError(Exception):
    """Nothing was received for longer than the limit."""


@dataclass(frozen=True)
class Peer:
    """Address of the engine, and how to reach it. Times are in seconds."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    # Head of a request, up to its content length.
    request_head: bytes
    connect_timeout_s: float
    stall_timeout_s: float


def peer_of(url: str, *, api_key: str | None, connect_timeout_s: float, stall_timeout_s: float) -> Peer:
    """Return the engine at the base URL `url`. Raises `SettingsError` if that is not an HTTP URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError(f"the engine's URL {url!r} cannot be read: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise SettingsError(f"the engine's URL {url!r} must be of the form http://HOST:PORT")
    if "@" in parts.netloc:
        raise SettingsError(
            f"the engine's URL, of {host}, holds a user name or password, which is not sent; set the engine's"
            " key with SERVAL_ENGINE_API_KEY"
        )
    authorization = "" if api_key is None else f"authorization: Bearer {api_key}\r\n"
    head = (
        f"POST {parts.path.rstrip('/')}/generate HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        f"{authorization}content-type: application/json\r\ncontent-length: "
    )
    return Peer(
        host=host,
        port=port or (443 if parts.scheme == "https" else 80),
        tls=_tls() if parts.scheme == "https" else None,
        request_head=head.encode("latin-1"),
        connect_timeout_s=connect_timeout_s,
        stall_timeout_s=stall_timeout_s,
    )


@cache
def _tls() -> ssl.SSLContext:
    """The context of all engines: reading the system's certificates takes tens of milliseconds."""
    return ssl.create_default_context()


class Phase(enum.Enum):
    """Progress of the exchange on a connection. See `Connection`."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    FAILED = enum.auto()


# Looking a member up in its class costs as much as a call in Python 3.11, for each token.
_IDLE, _HEAD, _BODY, _FAILED = Phase

# Called with each piece of a body. False applies backpressure: there must be no further call for now.
OnData = Callable[[bytes], bool]


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time: `begin`, `answered`, then `read` while it returns True.

             begin          status and headers         end of the body
        IDLE ------> HEAD --------------------> BODY -------------------> IDLE
                      |                          |
                      +--- fail --> FAILED <-----+

    `end` returns to IDLE from every phase; after an incomplete exchange it closes the connection. The
    connection is also closed when the engine asks for that, or sends data that belongs to no exchange.

    While a caller waits in `answered` or `read`, `data_received` hands data to its `on_data`; otherwise data
    is buffered. The caller wakes only at the end of the body, under backpressure, and on failure. Data
    buffered before a failure is read first.
    """

    def __init__(self, stall_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._stall_timeout_s = stall_timeout_s
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._phase = _IDLE
        # HTTP status of the response; 0 in the phase HEAD.
        self.status = 0
        # Set in the phase FAILED.
        self._failure: Exception | None = None
        # Awaited by `answered` and `read`; its result is False under backpressure.
        self._wakeup: asyncio.Future[bool] | None = None
        # Set while a caller waits for `_wakeup`.
        self._on_data: OnData | None = None
        # `on_data` applied backpressure in `answered`; the next `read` has to report it.
        self._backpressure = False
        # Pieces of the body that have not been handed over.
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._reading_paused = False
        self._stall_timer: asyncio.TimerHandle | None = None
        self._last_data = 0.0
        self.idle_since = 0.0

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have no common class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._phase is _IDLE:
            # The data belongs to no exchange.
            self.close()
            return
        self._last_data = self._loop.time()
        broken = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            broken = BrokenAnswerError(f"not HTTP: {error}")
        if self._on_data is not None and self.status == OK:
            self._hand_over(self._on_data)
        else:
            self._wake()
        if broken is not None:
            self.fail(broken)
        if self._buffered_bytes > BUFFER_BYTES and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        reason = f"the connection ended: {exc or 'closed by the engine'}"
        if self._phase is _HEAD:
            self.fail(NotReachedError(reason))
        elif self._phase is _BODY:
            self.fail(BrokenAnswerError(reason))

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self._phase is not _HEAD:
            # A second answer, which arrived together with the end of the one that was asked for.
            self.close()

    def on_headers_complete(self) -> None:
        if self._phase is _HEAD:
            self.status = self._parser.get_status_code()
            self._phase = _BODY

    def on_body(self, body: bytes) -> None:
        if self._phase is _BODY:
            self._buffer.append(body)
            self._buffered_bytes += len(body)

    def on_message_complete(self) -> None:
        self._phase = _IDLE
        if not self._parser.should_keep_alive():
            self.close()

    # Called by the client.

    @property
    def reusable(self) -> bool:
        """True if another exchange may begin."""
        return self._transport is not None and not self._transport.is_closing() and self._phase is _IDLE

    def begin(self, request: bytes) -> None:
        """Send a request. Only on a `reusable` connection."""
        assert self._transport is not None
        self._phase = _HEAD
        self.status = 0
        self._failure = None
        self._backpressure = False
        self._buffer.clear()
        self._buffered_bytes = 0
        self._last_data = self._loop.time()
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_later(self._stall_timeout_s, self._check_stall)
        self._transport.write(request)

    async def answered(self, on_data: OnData) -> None:
        """Wait for the response's `status`.

        If it is 200, `on_data` receives the pieces of the body that arrive before this returns, possibly all.

        Raises `NotReachedError`, `BrokenAnswerError` or `StalledError`, and whatever `on_data` raises.
        """
        while not self.status:
            self._backpressure = not await self._wait(on_data)

    async def read(self, on_data: OnData) -> bool:
        """Call `on_data` with each piece of the body until it applies backpressure (True) or the body ends
        (False).

        Raises `BrokenAnswerError` or `StalledError`, and whatever `on_data` raises.
        """
        while True:
            if self._backpressure:
                self._backpressure = False
                return True
            if self._buffer:
                if not on_data(self._take_buffer()):
                    return True
            elif self._phase is _IDLE:
                return False
            elif not await self._wait(on_data):
                return True

    def end(self) -> None:
        """End the exchange. The connection is closed if the response is not complete."""
        if self._phase is not _IDLE:
            self._phase = _IDLE
            self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def fail(self, error: Exception) -> None:
        """End the exchange with `error`. Only the first error counts."""
        self._failure = self._failure or error
        if self._phase is not _IDLE:
            self._phase = _FAILED
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _hand_over(self, on_data: OnData) -> None:
        """Pass the buffer to `on_data`, and wake the waiting caller only if it has something to do."""
        wakeup = self._wakeup
        if wakeup is None or wakeup.done():
            # The caller has failed or was cancelled, and has not run since.
            return
        try:
            wants_more = not self._buffer or on_data(self._take_buffer())
        except Exception as error:  # noqa: BLE001  # the caller raises it
            wakeup.set_exception(error)
        else:
            if self._phase is _IDLE or not wants_more:
                wakeup.set_result(wants_more)

    def _take_buffer(self) -> bytes:
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._buffered_bytes = 0
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    async def _wait(self, on_data: OnData) -> bool:
        """Wait with `on_data` in place; False if it applied backpressure."""
        if self._failure is not None:
            raise self._failure
        self._on_data = on_data
        self._wakeup = self._loop.create_future()
        try:
            return await self._wakeup
        finally:
            self._wakeup = self._on_data = None

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(True)

    def _check_stall(self) -> None:
        # One timer serves all events and exchanges: it fires when a stall would be due.
        self._stall_timer = None
        if self._phase is _IDLE:
            return
        quiet_s = 0.0 if self._reading_paused else self._loop.time() - self._last_data
        if quiet_s < self._stall_timeout_s:
            self._stall_timer = self._loop.call_later(self._stall_timeout_s - quiet_s, self._check_stall)
        else:
            self.fail(StalledError())


class ConnectionPool:
    """Connections to one engine. Idle ones are reused, the most recent first."""

    def __init__(self, peer: Peer, *, limit: int) -> None:
        self._peer = peer
        self._slots = asyncio.Semaphore(limit)
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()

    async def post(
        self, body: bytes, on_data: OnData, *, fresh: bool = False, on_sent: Callable[[], None] = lambda: None
    ) -> Connection:
        """Send `body`, and return a connection whose answer has begun, to be passed to `release`.

        `fresh`: do not reuse a connection. `on_sent` is called when `body` has been written.

        `on_data` and the exceptions are those of `Connection.answered`.
        """
        await self._slots.acquire()
        connection = idle = None
        try:
            idle = None if fresh else self._take_idle()
            connection = idle or await self._connect()
            self._busy.add(connection)
            connection.begin(b"%b%d\r\n\r\n%b" % (self._peer.request_head, len(body), body))
            on_sent()
            await connection.answered(on_data)
        except BaseException as error:
            if idle is not None and isinstance(error, NotReachedError):
                error.reused = True
            if connection is None:
                self._slots.release()
            else:
                # Even if the answer is complete: it may not be the one that was asked for.
                connection.close()
                self.release(connection)
            raise
        return connection

    def release(self, connection: Connection) -> None:
        """End the connection's exchange, and keep the connection if it can be reused."""
        self._busy.discard(connection)
        connection.end()
        if connection.reusable:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        self._slots.release()

    def interrupt(self, error: Callable[[], Exception]) -> None:
        """End each running exchange with an `error`."""
        for connection in self._busy:
            connection.fail(error())

    def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while self._idle and (self._idle[0].idle_since < oldest or not self._idle[0].reusable):
            self._idle.popleft().close()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self) -> Connection:
        peer = self._peer
        options: dict[str, Any] = {} if peer.tls is None else {"ssl": peer.tls}
        try:
            async with asyncio.timeout(peer.connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(peer.stall_timeout_s), peer.host, peer.port, **options
                )
        except (OSError, TimeoutError) as error:
            raise NotConnectedError(f"cannot connect: {error or type(error).__name__}") from error
        return connection
