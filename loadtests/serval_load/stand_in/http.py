"""HTTP/1.1 server on plain asyncio transports, because it must be faster than the programs it measures."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

_END_OF_HEAD = b"\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
END_OF_STREAM = b"0\r\n\r\n"
_REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 500: b"Error", 503: b"Service Unavailable"}


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of HTTP's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(payload: bytes) -> bytes:
    """`payload` as one server-sent event in a chunk of its own."""
    return chunk(b"data: " + payload + b"\n\n")


def response(body: bytes, *, status: int = 200, content_type: bytes = b"application/json") -> bytes:
    """Response with a Content-Length."""
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        status, _REASONS[status], content_type, len(body), body,
    )  # fmt: skip


@dataclass(eq=False)
class Exchange:
    """A request and its answer on one connection."""

    path: str
    body: bytes
    connection: "Connection"
    # Called once if the client closes the connection before the end of the answer.
    on_gone: Callable[[], None] | None = field(default=None)

    def write(self, data: bytes) -> None:
        """Send `data` as it is, unless the client has gone."""
        if not self.connection.gone:
            self.connection.transport.write(data)

    def finish(self, data: bytes) -> None:
        """Send the end of the answer and free the connection for the next request."""
        self.write(data)
        self.on_gone = None
        self.connection.answered()

    def cut(self) -> None:
        """Close the connection in the middle of the answer."""
        self.on_gone = None
        self.connection.transport.abort()


Handler = Callable[[Exchange], None]


class Connection(asyncio.Protocol):
    """Connection with one request at a time, whose body has a Content-Length or is chunked."""

    transport: asyncio.Transport

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._buffer = b""
        self._head: bytes | None = None
        self._exchange: Exchange | None = None
        # The client asked to close the connection after this answer.
        self._last = False
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio callback: the connection is open."""
        # uvloop's transports do not inherit asyncio's classes.
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio callback: the connection is closed by either side."""
        self.gone = True
        if self._exchange is not None and self._exchange.on_gone is not None:
            self._exchange.on_gone()

    def data_received(self, data: bytes) -> None:
        """asyncio callback: bytes have arrived."""
        self._buffer += data
        if self._exchange is None:
            self._next()

    def answered(self) -> None:
        """Start the next request after an answer, if it has arrived meanwhile."""
        self._exchange = None
        if self._last:
            self.transport.close()
        elif self._buffer:
            self._next()

    def _next(self) -> None:
        if self._head is None:
            head, found, rest = self._buffer.partition(_END_OF_HEAD)
            if not found:
                return
            self._head, self._buffer = head, rest
        head = self._head.lower()
        self._last = b"\r\nconnection: close" in head
        body = self._body(head)
        if body is None:
            return
        path = self._head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
        self._head = None
        self._exchange = Exchange(path, body, self)
        self._handle(self._exchange)

    def _body(self, head: bytes) -> bytes | None:
        if b"\r\ntransfer-encoding: chunked" in head:
            return self._chunked_body()
        _, found, after = head.partition(b"\r\ncontent-length:")
        length = int(after.partition(b"\r\n")[0]) if found else 0
        if len(self._buffer) < length:
            return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return body

    def _chunked_body(self) -> bytes | None:
        pieces: list[bytes] = []
        rest = self._buffer
        while True:
            size, found, after = rest.partition(b"\r\n")
            if not found:
                return None
            length = int(size, 16)
            if len(after) < length + 2:
                return None
            if length == 0:
                self._buffer = after[2:]
                return b"".join(pieces)
            pieces.append(after[:length])
            rest = after[length + 2 :]
