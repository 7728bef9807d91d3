"""HTTP/1.1 with clients that cannot be trusted: one connection, its limits and its deadlines.

It replaces uvicorn's own protocol, which limits neither the head of a request nor the time that head and body
may take, and reports a disconnect only to an application that waits for one. loadtests/HTTP_SERVERS.md
compares it with uvicorn's and with granian. httptools does the parsing. server/UPSTREAM.md lists what this
module relies on in uvicorn and httptools.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
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
from serval.http.deadlines import Deadlines, Part
from serval.http.exchange import STATUS_LINES, Exchange
from serval.http.head import RequestHead
from serval.http.limits import HttpLimits

# Time for a refused client to read the reason, before the connection is cut.
_LINGER_S = 2.0
# Requests that may wait behind the one being answered before reading pauses. A disconnect goes unnoticed
# while reading is paused, so a few requests are allowed to wait.
_MAX_PIPELINED = 16


class HttpProtocol(asyncio.Protocol):
    """One connection. Pipelined requests are answered one after the other."""

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
        """`refused` is called with the error code of each request that never reaches the application. The
        other arguments are uvicorn's, under its names."""
        self.transport: asyncio.Transport
        self.write_paused = False
        self._app = config.loaded_app
        self._state = server_state
        # uvicorn annotates this set with its own protocols only.
        self._connections: set[Any] = server_state.connections
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._limits = limits
        self._on_refused = refused
        self._parser = _new_parser(self)
        # Part of the scope that is the same for all requests of the connection.
        self._scope_base: Scope = {}
        # The request being received, from the end of its head on; those that wait; the one being answered.
        self._receiving: Exchange | None = None
        self._pipelined: deque[tuple[Exchange, Scope]] = deque()
        self._answering: Exchange | None = None
        self._part = Part.NOTHING
        self._request_count = 0
        # The bytes that are being parsed.
        self._data = b""
        self._head = RequestHead(limits)
        self._deadlines = Deadlines(
            self._loop, limits, on_late=self._refuse_late, on_idle=self._close_if_idle
        )
        self._refusal: ApiError | None = None
        # Input is dropped: the connection was refused, or its client speaks another protocol from here on.
        self._input_closed = False
        self._dropped_bytes = 0
        self._read_paused = False
        # Awaited by those that want to write while writing is paused.
        self._drain_waiters: set[asyncio.Future[None]] = set()
        self._lost = False
        self._disconnect_callbacks: set[Callable[[], None]] = set()

    # Called by endpoints, through `scope[CONNECTION]`.

    def add_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """See `ClientConnection`."""
        if self._lost:
            self._loop.call_soon(callback)
        else:
            self._disconnect_callbacks.add(callback)

    def remove_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """See `ClientConnection`."""
        self._disconnect_callbacks.discard(callback)

    # Called by exchanges. See `HttpConnection`.

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Fields of every response."""
        return self._state.default_headers

    async def drained(self) -> None:
        """Wait until the client can take more, or has disconnected."""
        while self.write_paused and not self._lost:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._drain_waiters.add(waiter)
            try:
                await waiter
            finally:
                self._drain_waiters.discard(waiter)

    def resume_reading(self) -> None:
        """Resume reading if it was paused."""
        if self._read_paused and len(self._pipelined) <= _MAX_PIPELINED and not self._lost:
            self._read_paused = False
            self.transport.resume_reading()

    def response_ended(self, exchange: Exchange) -> None:
        """Close the connection, or continue with the next request."""
        self._state.total_requests += 1
        self._answering = None
        self._deadlines.request_ended()
        if not exchange.keep_alive and not exchange.request_complete:
            self._close_behind_client(self._limits.body_timeout_s)
        elif not exchange.keep_alive:
            self.transport.close()
        elif self._pipelined and not self._lost:
            self._answer(*self._pipelined.popleft())
        self.resume_reading()

    # Called by uvicorn's server.

    def shutdown(self) -> None:
        """Close the connection, after the response in progress if there is one."""
        if self._answering is None:
            self.transport.close()
        else:
            self._answering.keep_alive = False

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have no common class.
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._scope_base = {
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
            # The kernel knows what a client has acknowledged, and cuts off one that reads nothing.
            stalled_ms = int(self._limits.stalled_client_s * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled_ms)
        if len(self._connections) > self._limits.connections:
            self._refuse(TooManyConnectionsError("This server has too many connections.", retry_after_s=1))
        else:
            self._deadlines.watch_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._connections.discard(self)
        self._deadlines.cancel()
        if self._answering is not None:
            self._answering.disconnect()
        self._pipelined.clear()
        # Break reference cycles: these refer to this protocol, which refers to them.
        self._parser = None
        self._scope_base = {}
        self.resume_writing()
        for callback in self._disconnect_callbacks:
            callback()
        self._disconnect_callbacks.clear()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        for waiter in self._drain_waiters:
            if not waiter.done():
                waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._input_closed:
            self._drop(data)
            return
        head = self._head
        if self._part is Part.HEAD:
            head.unfinished_bytes += len(data)
            head.received.append(data)
        self._parse(data)
        self._data = b""
        if head.too_large or (self._part is Part.HEAD and head.unfinished_bytes > self._limits.head_bytes):
            self._refusal = HeadTooLargeError(
                f"The request's headers are larger than {self._limits.head_bytes} bytes or more than"
                f" {self._limits.head_fields}."
            )
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif self._deadlines.running or self._part is not Part.NOTHING:
            self._deadlines.set_part(self._part, self._request_count)

    def _drop(self, data: bytes) -> None:
        self._dropped_bytes += len(data)
        if self._dropped_bytes > self._limits.dropped_bytes:
            self.transport.abort()

    def _parse(self, data: bytes) -> None:
        self._data = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._head.offers_upgrade:
                self._decline_upgrade(data[upgrade.args[0] :])
                return
            # CONNECT: the client is answered in HTTP, for the last time.
            self._input_closed = True
            if self._receiving is not None:
                self._receiving.keep_alive = False
        except httptools.HttpParserError as error:
            # Raised by `RequestHead.check`, or by the parser itself.
            cause = error.__context__
            malformed = MalformedRequestError("This is not a valid HTTP request.")
            self._refusal = cause if isinstance(cause, ApiError) else malformed

    def _decline_upgrade(self, rest: bytes) -> None:
        """Parse the head again without the offer of another protocol, and then `rest`.

        httptools treats everything after such a head as the other protocol, even the request's body.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version()
        self._parser = _new_parser(self)
        self._parse(self._head.without_upgrade(method, version.encode()) + rest)

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._part = Part.HEAD
        self._receiving = None
        self._request_count += 1
        self._head.begin(self._data)

    def on_url(self, url: bytes) -> None:
        self._head.add_target(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.add_field(name, value)

    def on_headers_complete(self) -> None:
        self._part = Part.BODY
        head, parser = self._head, self._parser
        head.complete = True
        if head.too_large:
            return
        verb, version = parser.get_method(), parser.get_http_version()
        head.check(verb, version)
        method = verb.decode("ascii")
        if parser.should_upgrade() and method != "CONNECT":
            head.offers_upgrade = True
            return
        path, raw_path, query = _parts_of(head.target)
        scope: Scope = {
            **self._scope_base,
            "http_version": version,
            "method": method,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": head.fields,
            "state": self._app_state.copy(),
        }
        exchange = self._receiving = scope[DIRECT_WRITES] = Exchange(
            self,
            method=method,
            http_version=version,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            expects_continue=head.expects_continue,
        )
        if self._answering is None:
            self._answer(exchange, scope)
        else:
            self._pipelined.append((exchange, scope))
            if len(self._pipelined) > _MAX_PIPELINED:
                self._pause_reading()

    def on_body(self, body: bytes) -> None:
        exchange = self._receiving
        # A body whose response is complete is read and dropped.
        if exchange is not None and not exchange.response_complete and not exchange.add_body(body):
            self._pause_reading()

    def on_message_complete(self) -> None:
        self._part = Part.NOTHING
        if self._receiving is not None:
            self._receiving.end_body()

    def _answer(self, exchange: Exchange, scope: Scope) -> None:
        self._answering = exchange
        task = self._loop.create_task(exchange.run(self._app, scope))
        task.add_done_callback(self._state.tasks.discard)
        self._state.tasks.add(task)

    def _refuse(self, error: ApiError) -> None:
        """Answer in place of the application, and close."""
        answered = self._receiving is not None and self._receiving.response_complete
        self._input_closed = True
        self._deadlines.cancel()
        self._receiving = None
        assert error.code is not None
        self._on_refused(error.code)
        if answered:
            # The client has its response; only the rest of its body is refused.
            self.transport.abort()
            return
        exchange = self._answering
        if exchange is not None:
            if exchange.response_started or exchange.request_complete:
                # Anything written now would be read as part of another response.
                self.transport.abort()
                return
            exchange.disconnect()
        body = msgspec.json.encode(error_object(error))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        for name, value in error.headers.items():
            head += f"{name}: {value}\r\n".encode()
        self.transport.write(STATUS_LINES[error.status] + head + b"\r\n" + body)
        self._close_behind_client(_LINGER_S)

    def _close_behind_client(self, within_s: float) -> None:
        """Close the connection when the client does, at the latest in `within_s`; drop what it still sends.

        A connection closed with unread data is reset, which may lose the response.
        """
        self._input_closed = True
        self._receiving = None
        self.transport.write_eof()
        self._deadlines.linger(within_s, self.transport.abort)
        self.resume_reading()

    def _refuse_late(self, part: str) -> None:
        self._refuse(RequestTimeoutError(f"The request's {part} took too long to arrive."))

    def _close_if_idle(self) -> bool:
        if self._answering is not None or self._part is not Part.NOTHING:
            return False
        self.transport.close()
        return True

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()


def _new_parser(protocol: HttpProtocol) -> Any:
    parser = httptools.HttpRequestParser(protocol)
    # Data after a request with `connection: close` is neither read as part of it nor answered.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port of a socket's name; None if it is not an internet address."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None


def _parts_of(target: bytes) -> tuple[str, bytes, bytes]:
    """Return the path as text, the path as sent, and the query.

    Raises `httptools.HttpParserError` or `UnicodeDecodeError`, which the parser turns into its own error.
    """
    if target.startswith(b"/"):
        raw_path, _, query = target.partition(b"?")
    else:
        url = httptools.parse_url(target)
        raw_path, query = url.path or b"", url.query or b""
    path = raw_path.decode("ascii")
    return (unquote(path) if "%" in path else path), raw_path, query
