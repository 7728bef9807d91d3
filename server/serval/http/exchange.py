"""ASGI's `receive` and `send` for one request on a connection that may carry others after it."""

import asyncio
import logging
import re
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

logger = logging.getLogger(__name__)

# Pause reading from the client above this many buffered body bytes.
BUFFER_BYTES = 64 << 10

STATUS_LINES = {
    **{status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus},
    # Anthropic's own status, which its clients know.
    529: b"HTTP/1.1 529 Overloaded\r\n",
}
_BODILESS = frozenset({204, 304})
# Control characters, which no field may hold: line ends would begin another field.
_NOT_IN_A_FIELD = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection(Protocol):
    """The connection, as seen by an exchange. `HttpProtocol` implements it."""

    @property
    def transport(self) -> asyncio.Transport:
        """Transport that responses are written to."""
        ...

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Fields of every response."""
        ...

    @property
    def write_paused(self) -> bool:
        """True while earlier data waits for the client to read it."""
        ...

    async def drained(self) -> None:
        """Wait until the client can take more, or has disconnected."""
        ...

    def resume_reading(self) -> None:
        """Resume reading if it was paused."""
        ...

    def response_ended(self, exchange: "Exchange") -> None:
        """Note that the response has been written, and the connection is free for the next one."""
        ...


class Exchange:
    """An ASGI application's `receive` and `send` for one request.

    The head of a response is written together with the first piece of its body: each write wakes the client's
    side, which for a small response costs a tenth as much as everything else.
    """

    __slots__ = (
        "_bodiless",
        "_body",
        "_bytes_left",
        "_chunked",
        "_connection",
        "_expects_continue",
        "_head",
        "_is_head",
        "_receiver",
        "_unreported",
        "_version",
        "disconnected",
        "keep_alive",
        "request_complete",
        "response_complete",
        "response_started",
    )

    def __init__(
        self,
        connection: HttpConnection,
        *,
        method: str,
        http_version: str,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        """`keep_alive`: the client allows the connection to be reused."""
        self.keep_alive = keep_alive
        # The client has disconnected, or the connection was refused: nothing more is written.
        self.disconnected = False
        # The whole request has been received.
        self.request_complete = False
        # The application has sent the response's head; the whole response.
        self.response_started = False
        self.response_complete = False
        self._connection = connection
        self._version = http_version
        self._is_head = method == "HEAD"
        self._expects_continue = expects_continue
        self._body: list[bytes] = []
        # Something arrived that `receive` has not returned yet.
        self._unreported = False
        self._receiver: asyncio.Future[None] | None = None
        # The response's head until it is written, the framing of its body, and the bytes still to come.
        self._head = b""
        self._chunked = False
        self._bodiless = False
        self._bytes_left = 0

    # Called by the connection.

    def add_body(self, body: bytes) -> bool:
        """Add a piece of the request's body. Return False if reading should pause."""
        self._body.append(body)
        self._unreported = True
        self._wake()
        return sum(map(len, self._body)) <= BUFFER_BYTES

    def end_body(self) -> None:
        """Note the end of the request."""
        self.request_complete = self._unreported = True
        self._wake()

    def disconnect(self) -> None:
        """Note that the client has disconnected."""
        self.disconnected = True
        self._wake()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Call `app`. Log what it raises, and respond with a 500 if it has not responded."""
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._connection.transport.abort()
            raise
        except Exception:
            logger.exception("the application failed")
        if self.response_complete or self.disconnected:
            return
        if self.response_started:
            # The only way to tell a client that a response is not complete.
            self._connection.transport.close()
            return
        self.keep_alive = False
        await self.send(
            {"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]}
        )
        await self.send({"type": "http.response.body"})

    # Called by the application.

    async def receive(self) -> Message:
        """See ASGI."""
        if self._expects_continue:
            self._expects_continue = False
            if not self.response_started and not self.disconnected:
                self._connection.transport.write(_CONTINUE)
        if not self._unreported and not self.disconnected and not self.response_complete:
            self._connection.resume_reading()
            self._receiver = asyncio.get_running_loop().create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        self._unreported = False
        body = self._body
        if len(body) == 1:
            piece = body.pop()
        else:
            piece = b"".join(body)
            body.clear()
        return {"type": "http.request", "body": piece, "more_body": not self.request_complete}

    async def send(self, message: Message) -> None:
        """See ASGI. Raises `RuntimeError` on an invalid sequence of messages."""
        if self._connection.write_paused and not self.disconnected:
            await self._connection.drained()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._start(message)
        elif message["type"] == "http.response.body" and self.response_started:
            self._write_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"the message {message['type']!r} has no place here")

    def write_chunk(self, data: bytes) -> bool:
        """See `DirectWrites`."""
        if self._connection.write_paused:
            return False
        if not self.disconnected and not self._bodiless:
            self._write(_chunk(data) if self._chunked else data)
        return True

    def _start(self, message: Message) -> None:
        if self.response_started:
            raise RuntimeError("the answer has begun")
        status: int = message["status"]
        fields = [*self._connection.default_headers, *message.get("headers", ())]
        length: int | None = None
        wants_close = False
        for name, value in fields:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and value == b"close":
                wants_close = True
        bodiless = self._is_head or status in _BODILESS
        chunked = length is None and not bodiless and self._version != "1.0"
        if chunked:
            fields.append((b"transfer-encoding", b"chunked"))
        elif length is None and not bodiless:
            # To a client that does not know chunks, the end of the connection is the end of the body.
            self.keep_alive = False
        if wants_close:
            self.keep_alive = False
        elif not self.keep_alive:
            fields.append((b"connection", b"close"))
        lines = [b"%b: %b" % field for field in fields]
        if _NOT_IN_A_FIELD.search(b"".join(lines)):
            raise RuntimeError("a header of the answer holds a control character")
        self._head = STATUS_LINES[status] + b"\r\n".join([*lines, b"", b""])
        self._bodiless = bodiless
        self._chunked = chunked
        self._bytes_left = -1 if length is None else length
        self.response_started = True

    def _write_body(self, data: bytes, *, more: bool) -> None:
        if self.response_complete:
            raise RuntimeError("the answer is complete")
        if self._bodiless:
            data = b""
        elif self._chunked:
            data = _chunk(data) if data else b""
            if not more:
                data += b"0\r\n\r\n"
        elif self._bytes_left >= 0:
            self._bytes_left -= len(data)
            if self._bytes_left < 0 or (self._bytes_left and not more):
                raise RuntimeError("the answer is not as long as its content-length says")
        self._write(data)
        if not more:
            self.response_complete = True
            self._wake()
            self._connection.response_ended(self)

    def _write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._connection.transport.write(data)

    def _wake(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)


def _chunk(data: bytes) -> bytes:
    """Return `data`, which must not be empty, as one chunk of HTTP's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)
