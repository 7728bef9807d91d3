"""HTTP/1.1 with clients that cannot be trusted: one connection, its limits and its deadlines.

In place of uvicorn's own protocol, which bounds neither the head of a request nor the time that head and body
may take, tells an application that waits for something else nothing of a client that has gone, and costs
a small request a seventh of all it costs. httptools parses; uvicorn's server accepts connections, and asks of
a protocol what `HttpProtocol` has: to enter `connections` and `tasks` of its state, and `shutdown`.
"""

import asyncio
import enum
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

import httptools
import msgspec
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from serval.errors import (
    ApiError,
    HeadTooLargeError,
    MalformedRequestError,
    RequestTimeoutError,
    TooManyConnectionsError,
    error_object,
)
from serval.http.asgi import CONNECTION, DIRECT_WRITES
from serval.http.exchange import STATUS_LINES, Exchange

# How long a refused client may take to read why, before the connection is cut.
_LINGER_S = 2.0
# Requests that may wait behind one that is being answered. While nothing is read, a client that goes away is
# not noticed, so the first few do not stop it.
_MOST_AHEAD = 16


@dataclass(frozen=True)
class HttpLimits:
    """What one client may take. Times are in seconds, sizes in bytes.

    `stalled_client_s`: how long nothing that was sent need be taken. `connections`: of this process.
    """

    head_timeout_s: float
    body_timeout_s: float
    idle_s: float
    stalled_client_s: float
    connections: int
    head_bytes: int = 64 << 10
    head_fields: int = 100


class _Reading(enum.Enum):
    """What of a request is being received."""

    NOTHING = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class HttpProtocol(asyncio.Protocol):
    """One connection. Requests that are sent ahead are answered one after the other."""

    def __init__(
        self,
        *,
        limits: HttpLimits,
        refused: Callable[[str], None],
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`refused` is told the code of each request that never reached the application; the rest is
        uvicorn's, by its names."""
        self.transport: asyncio.Transport
        self.write_paused = False
        self._app = config.loaded_app
        self._state = server_state
        # uvicorn's set names its own protocols only.
        self._connections: set[Any] = server_state.connections
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._limits = limits
        self._tell_refused = refused
        self._parser: Any = httptools.HttpRequestParser(self)
        # What comes behind a request that says `connection: close` is not read as part of it, nor answered.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        # Where the application gets to know who asks: the same for all requests of the connection.
        self._about_connection: Scope = {}
        # The request that is being received, if its head is here; those that wait; the one that is answered.
        self._receiving: Exchange | None = None
        self._ahead: deque[tuple[Exchange, Scope]] = deque()
        self._answering: Exchange | None = None
        self._reading = _Reading.NOTHING
        self._heads = 0
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._head_bytes = 0
        # Of the head, as far as it came in pieces of which it was not the end.
        self._unfinished_bytes = 0
        self._refusal: ApiError | None = None
        # Nothing more is read: the connection was refused, or its client speaks something else from here on.
        self._deaf = False
        self._read_paused = False
        # Who waits for the client to take what was written.
        self._drains: set[asyncio.Future[None]] = set()
        # The deadline that runs, and for which part of which request.
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_of: tuple[_Reading, int] = (_Reading.NOTHING, 0)
        # One timer for all times between requests: it looks when the connection would have been idle for too
        # long.
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._lost = False
        self._when_lost: set[Callable[[], None]] = set()

    # What an endpoint asks for, by `scope[CONNECTION]`.

    def add_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the client has gone."""
        if self._lost:
            self._loop.call_soon(callback)
        else:
            self._when_lost.add(callback)

    def remove_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._when_lost.discard(callback)

    # What an exchange asks for.

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Fields of every answer."""
        return self._state.default_headers

    async def drained(self) -> None:
        """Wait until the client takes more, or has gone."""
        while self.write_paused and not self._lost:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._drains.add(waiter)
            try:
                await waiter
            finally:
                self._drains.discard(waiter)

    def resume_reading(self) -> None:
        """Read on, if that was paused."""
        if self._read_paused and len(self._ahead) <= _MOST_AHEAD and not self._lost:
            self._read_paused = False
            self.transport.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """Close, or go on with the next request."""
        self._state.total_requests += 1
        self._answering = None
        self._idle_since = self._loop.time()
        if not exchange.keep_alive:
            self.transport.close()
        elif self._ahead and not self._lost:
            self._answer(*self._ahead.popleft())
        self.resume_reading()

    # What uvicorn's server calls.

    def shutdown(self) -> None:
        """Close, after the answer that is under way if there is one."""
        if self._answering is None:
            self.transport.close()
        else:
            self._answering.keep_alive = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no common class.
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._about_connection = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
            "root_path": "",
            CONNECTION: self,
        }
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # A client that takes nothing of what was sent is cut off by the kernel, which knows.
            stalled_ms = int(self._limits.stalled_client_s * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled_ms)
        self._idle_since = self._loop.time()
        if len(self._connections) > self._limits.connections:
            self._refuse(TooManyConnectionsError("This server has too many connections.", retry_after_s=1))
        else:
            self._idle_timer = self._loop.call_later(self._limits.idle_s, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._connections.discard(self)
        self._end_timers()
        if self._answering is not None:
            self._answering.lose()
        self._ahead.clear()
        # They refer to this, which refers to them.
        self._parser = None
        self._about_connection = {}
        self.resume_writing()
        for callback in self._when_lost:
            callback()
        self._when_lost.clear()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        for waiter in self._drains:
            if not waiter.done():
                waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._reading is _Reading.HEAD:
            self._unfinished_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No other protocol is spoken here, so the client is answered in this one, for the last time.
            self._deaf = True
            if self._receiving is not None:
                self._receiving.keep_alive = False
        except httptools.HttpParserError:
            self._refusal = self._refusal or MalformedRequestError("This is not a valid HTTP request.")
        if self._unfinished_bytes > self._limits.head_bytes and self._reading is _Reading.HEAD:
            self._refusal = self._too_large()
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif self._deadline is not None or self._reading is not _Reading.NOTHING:
            self._set_deadline()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._reading = _Reading.HEAD
        self._receiving = None
        self._heads += 1
        self._head_bytes = self._unfinished_bytes = 0
        self._target = b""
        self._fields = []
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        if self._has_room(len(url)):
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # As it is sent: with a colon, a space and the end of the line.
        if self._has_room(len(name) + len(value) + 4):
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self._expects_continue = True
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._reading = _Reading.BODY
        if self._refusal is not None:
            return
        parser = self._parser
        version = parser.get_http_version()
        path, raw_path, query = _parts_of(self._target)
        scope: Scope = {
            **self._about_connection,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._fields,
            "state": self._app_state.copy(),
        }
        exchange = self._receiving = scope[DIRECT_WRITES] = Exchange(
            self,
            method=scope["method"],
            http_version=version,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            expects_continue=self._expects_continue,
        )
        if self._answering is None:
            self._answer(exchange, scope)
        else:
            self._ahead.append((exchange, scope))
            if len(self._ahead) > _MOST_AHEAD:
                self._pause_reading()

    def on_body(self, body: bytes) -> None:
        exchange = self._receiving
        # What comes behind a complete answer is read and dropped.
        if exchange is not None and not exchange.complete and not exchange.feed(body):
            self._pause_reading()

    def on_message_complete(self) -> None:
        self._reading = _Reading.NOTHING
        if self._receiving is not None:
            self._receiving.end_of_request()

    def _has_room(self, size: int) -> bool:
        self._head_bytes += size
        limits = self._limits
        if self._head_bytes > limits.head_bytes or len(self._fields) >= limits.head_fields:
            self._refusal = self._too_large()
        return self._refusal is None

    def _too_large(self) -> ApiError:
        return HeadTooLargeError(
            f"The request's headers are larger than {self._limits.head_bytes} bytes or more than"
            f" {self._limits.head_fields}."
        )

    # Answering.

    def _answer(self, exchange: Exchange, scope: Scope) -> None:
        self._answering = exchange
        task = self._loop.create_task(exchange.run(self._app, scope))
        task.add_done_callback(self._state.tasks.discard)
        self._state.tasks.add(task)

    def _refuse(self, error: ApiError) -> None:
        """Answer in the application's place, and close."""
        self._deaf = True
        self._end_timers()
        self._receiving = None
        assert error.code is not None
        self._tell_refused(error.code)
        exchange = self._answering
        if exchange is not None:
            if exchange.started or exchange.whole:
                # What is written now would be read as part of another answer.
                self.transport.abort()
                return
            exchange.lose()
        body = msgspec.json.encode(error_object(error))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        for name, value in error.headers.items():
            head += f"{name}: {value}\r\n".encode()
        self.transport.write(STATUS_LINES[error.status] + head + b"\r\n" + body)
        # A connection closed with data that was not read is reset, and the answer may be lost with it.
        self.transport.write_eof()
        self._deadline = self._loop.call_later(_LINGER_S, self.transport.abort)

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    # Deadlines.

    def _set_deadline(self) -> None:
        now = (self._reading, self._heads)
        if now == self._deadline_of:
            return
        self._deadline_of = now
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._reading is _Reading.HEAD:
            self._deadline = self._loop.call_later(self._limits.head_timeout_s, self._late, "headers")
        elif self._reading is _Reading.BODY:
            self._deadline = self._loop.call_later(self._limits.body_timeout_s, self._late, "body")

    def _late(self, part: str) -> None:
        self._refuse(RequestTimeoutError(f"The request's {part} took too long to arrive."))

    def _close_if_idle(self) -> None:
        wait_s = self._idle_since + self._limits.idle_s - self._loop.time()
        if self._answering is not None or self._reading is not _Reading.NOTHING:
            wait_s = self._limits.idle_s
        if wait_s > 0:
            self._idle_timer = self._loop.call_later(wait_s, self._close_if_idle)
        else:
            self.transport.close()

    def _end_timers(self) -> None:
        for timer in (self._deadline, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._deadline = self._idle_timer = None


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port of a socket's name; None: it is no internet address."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None


def _parts_of(target: bytes) -> tuple[str, bytes, bytes]:
    """The path as text and as it was sent, and the query.

    Raises `httptools.HttpParserError` or `UnicodeDecodeError`, which the parser makes an error of its own.
    """
    if target.startswith(b"/"):
        raw_path, _, query = target.partition(b"?")
    else:
        url = httptools.parse_url(target)
        raw_path, query = url.path or b"", url.query or b""
    path = raw_path.decode("ascii")
    return (unquote(path) if "%" in path else path), raw_path, query
