"""One request and its answer, as ASGI has them, on a connection that may carry others after it."""

import asyncio
import logging
import re
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

logger = logging.getLogger(__name__)

# What of a body may wait to be read before the client has to wait too.
BUFFER_BYTES = 64 << 10

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}
_BODILESS = frozenset({204, 304})
# Line ends separate fields; no field may hold one, nor what else is not text.
_NOT_IN_A_FIELD = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Wire(Protocol):
    """The connection, as far as an exchange may know it. `serval.http.protocol` is one."""

    @property
    def transport(self) -> asyncio.Transport:
        """Where the answer is written."""
        ...

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Fields of every answer."""
        ...

    @property
    def write_paused(self) -> bool:
        """Whether the client does not take what was written before."""
        ...

    async def drained(self) -> None:
        """Wait until the client takes more, or has gone."""
        ...

    def resume_reading(self) -> None:
        """Read on, if that was paused."""
        ...

    def answered(self, exchange: "Exchange") -> None:
        """The answer is written; the connection is there for the next one."""
        ...


class Exchange:
    """An ASGI application's `receive` and `send` for one request.

    The head of an answer is written together with what comes first of the body: a write wakes the client's
    side, and for a small answer that costs as much as a tenth of the rest.
    """

    __slots__ = (
        "_bodiless",
        "_body",
        "_chunked",
        "_expects_continue",
        "_head",
        "_is_head",
        "_left",
        "_news",
        "_version",
        "_waiter",
        "_wire",
        "complete",
        "gone",
        "keep_alive",
        "started",
        "whole",
    )

    def __init__(
        self, wire: Wire, *, method: str, http_version: str, keep_alive: bool, expects_continue: bool
    ) -> None:
        """`keep_alive`: whether the client lets the connection be used again."""
        self.keep_alive = keep_alive
        # The client has gone, or the connection was refused: nobody is told anything any more.
        self.gone = False
        # Of the request: all of it is here.
        self.whole = False
        # Of the answer: the head is under way, and all of it is.
        self.started = False
        self.complete = False
        self._wire = wire
        self._version = http_version
        self._is_head = method == "HEAD"
        self._expects_continue = expects_continue
        self._body: list[bytes] = []
        # Whether there is something that `receive` has not told yet.
        self._news = False
        self._waiter: asyncio.Future[None] | None = None
        # Of the answer: what waits for the body's first piece, how the body is framed, what it lacks.
        self._head = b""
        self._chunked = False
        self._bodiless = False
        self._left = 0

    # What the connection calls.

    def feed(self, body: bytes) -> bool:
        """Take a piece of the request's body. False: so much waits that no more should be read."""
        self._body.append(body)
        self._news = True
        self._wake()
        return sum(map(len, self._body)) <= BUFFER_BYTES

    def end_of_request(self) -> None:
        """The request is whole."""
        self.whole = self._news = True
        self._wake()

    def lose(self) -> None:
        """The client has gone."""
        self.gone = True
        self._wake()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Have `app` answer. What it raises is logged, and answered for if nothing was sent."""
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._wire.transport.abort()
            raise
        except Exception:
            logger.exception("the application failed")
        if self.complete or self.gone:
            return
        if self.started:
            # All that a client understands of an answer that cannot be completed.
            self._wire.transport.close()
            return
        self.keep_alive = False
        await self.send(
            {"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]}
        )
        await self.send({"type": "http.response.body"})

    # What the application calls.

    async def receive(self) -> Message:
        """ASGI's."""
        if self._expects_continue:
            self._expects_continue = False
            if not self.started and not self.gone:
                self._wire.transport.write(_CONTINUE)
        if not self._news and not self.gone and not self.complete:
            self._wire.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.gone or self.complete:
            return {"type": "http.disconnect"}
        self._news = False
        body = self._body
        if len(body) == 1:
            piece = body.pop()
        else:
            piece = b"".join(body)
            body.clear()
        return {"type": "http.request", "body": piece, "more_body": not self.whole}

    async def send(self, message: Message) -> None:
        """ASGI's. Raises `RuntimeError` for an answer that is none."""
        if self._wire.write_paused and not self.gone:
            await self._wire.drained()
        if self.gone:
            return
        if message["type"] == "http.response.start":
            self._start(message)
        elif message["type"] == "http.response.body" and self.started:
            self._write_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"the message {message['type']!r} has no place here")

    def write_chunk(self, data: bytes) -> bool:
        """See `serval.api.http.StreamedBody`."""
        if self._wire.write_paused:
            return False
        if not self.gone and not self._bodiless:
            self._write(_chunk(data) if self._chunked else data)
        return True

    def _start(self, message: Message) -> None:
        if self.started:
            raise RuntimeError("the answer has begun")
        status: int = message["status"]
        fields = [*self._wire.default_headers, *message.get("headers", ())]
        length: int | None = None
        says_close = False
        for name, value in fields:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and value == b"close":
                says_close = True
        bodiless = self._is_head or status in _BODILESS
        chunked = length is None and not bodiless and self._version != "1.0"
        if chunked:
            fields.append((b"transfer-encoding", b"chunked"))
        elif length is None and not bodiless:
            # For a client that knows no chunks, the body ends with the connection.
            self.keep_alive = False
        if says_close:
            self.keep_alive = False
        elif not self.keep_alive:
            fields.append((b"connection", b"close"))
        lines = [b"%b: %b" % field for field in fields]
        if _NOT_IN_A_FIELD.search(b"".join(lines)):
            raise RuntimeError("a header of the answer holds a control character")
        self._head = STATUS_LINES[status] + b"\r\n".join([*lines, b"", b""])
        self._bodiless = bodiless
        self._chunked = chunked
        self._left = -1 if length is None else length
        self.started = True

    def _write_body(self, data: bytes, *, more: bool) -> None:
        if self.complete:
            raise RuntimeError("the answer is complete")
        if self._bodiless:
            data = b""
        elif self._chunked:
            data = _chunk(data) if data else b""
            if not more:
                data += b"0\r\n\r\n"
        elif self._left >= 0:
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the answer is not as long as its content-length says")
        self._write(data)
        if not more:
            self.complete = True
            self._wake()
            self._wire.answered(self)

    def _write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._wire.transport.write(data)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _chunk(data: bytes) -> bytes:
    """`data`, which is not empty, as HTTP frames a piece of a body whose length is not known."""
    return b"%x\r\n%b\r\n" % (len(data), data)
