"""HTTP/1.1 with clients that cannot be trusted: uvicorn's protocol, with limits and deadlines of our own.

uvicorn 0.54 bounds neither the head of a request nor the time that head and body may take, and tells an
application that waits for something else nothing of a client that has gone. What is relied on, in
`uvicorn/protocols/http/httptools_impl.py`: `data_received` feeds the parser and calls `send_400_response` for
what is not HTTP; the parser calls `on_message_begin` ... `on_message_complete`, which read and make
`self.scope` and `self.cycle`; a cycle writes to its own `transport`, and ends when its `disconnected` is set
and its `message_event` woken.
`tests/server/test_http_protocol.py` holds that against the pinned version.
"""

import asyncio
import enum
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serval.api.http import ANSWER, CONNECTION
from serval.errors import (
    ApiError,
    HeadTooLargeError,
    MalformedRequestError,
    RequestTimeoutError,
    TooManyConnectionsError,
    error_object,
)
from serval.joined_head import JoinedHead

# How long a refused client may take to read why, before the connection is cut.
_LINGER_S = 2.0


@dataclass(frozen=True)
class HttpLimits:
    """What one client may take. Times are in seconds, sizes in bytes.

    `stalled_client_s`: how long nothing that was sent need be taken. `connections`: of this process.
    """

    head_timeout_s: float
    body_timeout_s: float
    stalled_client_s: float
    connections: int
    head_bytes: int = 64 << 10
    head_fields: int = 100


class _Reading(enum.Enum):
    """What of a request is being received."""

    NOTHING = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `refused` is told the code of each request that never reached the application."""

    def __init__(self, *, limits: HttpLimits, refused: Callable[[str], None], **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._tell_refused = refused
        self._reading = _Reading.NOTHING
        self._heads = 0
        self._head_bytes = 0
        # Of the head, as far as it came in pieces of which it was not the end.
        self._unfinished_bytes = 0
        self._refusal: ApiError | None = None
        self._over = False
        # The deadline that runs, and for which part of which request.
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_of: tuple[_Reading, int] = (_Reading.NOTHING, 0)
        self._lost = False
        self._when_lost: set[Callable[[], None]] = set()

    # What an endpoint asks for, by `scope[CONNECTION]`.

    def call_when_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the client has gone."""
        if self._lost:
            self.loop.call_soon(callback)
        else:
            self._when_lost.add(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._when_lost.discard(callback)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # as in uvicorn: uvloop has its own
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # A client that takes nothing of what was sent is cut off by the kernel, which knows.
            stalled_ms = int(self._limits.stalled_client_s * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled_ms)
        if len(self.connections) > self._limits.connections:
            self._refuse(TooManyConnectionsError("This server has too many connections.", retry_after_s=1))
        else:
            self._close_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._end_deadline()
        for callback in self._when_lost:
            callback()
        self._when_lost.clear()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self._reading is _Reading.HEAD:
            self._unfinished_bytes += len(data)
        super().data_received(data)
        if self._unfinished_bytes > self._limits.head_bytes and self._reading is _Reading.HEAD:
            self._refusal = self._too_large()
        if self._refusal is not None:
            self._refuse(self._refusal)
        else:
            self._set_deadline()

    # What the parser calls.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        self._reading = _Reading.HEAD
        self._heads += 1
        self._head_bytes = self._unfinished_bytes = 0

    def on_url(self, url: bytes) -> None:
        if self._has_room(len(url)):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # As it is sent: with a colon, a space and the end of the line.
        if self._has_room(len(name) + len(value) + 4, fields=1):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reading = _Reading.BODY
        if self._refusal is None:
            super().on_headers_complete()
            # The application is called in the event loop's next turn, so nothing was written yet.
            joined = JoinedHead(self.transport, self.flow, self.loop)
            self.cycle.transport = joined  # type: ignore[assignment]
            self.scope[ANSWER] = joined  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = _Reading.NOTHING
        if self._refusal is None:
            super().on_message_complete()

    # Refusing.

    def send_400_response(self, msg: str) -> None:
        self._refusal = self._refusal or MalformedRequestError("This is not a valid HTTP request.")

    def _has_room(self, size: int, *, fields: int = 0) -> bool:
        self._head_bytes += size
        limits = self._limits
        if self._head_bytes > limits.head_bytes or len(self.headers) + fields > limits.head_fields:
            self._refusal = self._too_large()
        return self._refusal is None

    def _too_large(self) -> ApiError:
        return HeadTooLargeError(
            f"The request's headers are larger than {self._limits.head_bytes} bytes or more than"
            f" {self._limits.head_fields}."
        )

    def _refuse(self, error: ApiError) -> None:
        """Answer in the application's place, and close."""
        self._over = True
        self._end_deadline()
        self._unset_keepalive_if_required()
        assert error.code is not None
        self._tell_refused(error.code)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self.pipeline:
                # What is written now would be read as part of another answer.
                self.transport.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        body = msgspec.json.encode(error_object(error))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        for name, value in error.headers.items():
            head += f"{name}: {value}\r\n".encode()
        self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + body)
        # A connection closed with data that was not read is reset, and the answer may be lost with it.
        self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.abort)

    # Deadlines.

    def _set_deadline(self) -> None:
        now = (self._reading, self._heads)
        if self._deadline is None and self._reading is _Reading.NOTHING:
            self._close_if_idle()
        elif now != self._deadline_of:
            self._end_deadline()
            self._deadline_of = now
            if self._reading is _Reading.HEAD:
                self._deadline = self.loop.call_later(self._limits.head_timeout_s, self._late, "headers")
            elif self._reading is _Reading.BODY:
                self._deadline = self.loop.call_later(self._limits.body_timeout_s, self._late, "body")
            else:
                self._close_if_idle()

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_if_idle(self) -> None:
        # uvicorn starts this clock after an answer only: not for a client that never says anything.
        at_work = self.cycle is not None and not self.cycle.response_complete
        if not at_work and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _late(self, part: str) -> None:
        self._refuse(RequestTimeoutError(f"The request's {part} took too long to arrive."))
