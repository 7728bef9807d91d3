"""HTTP/1.1 exchanges with the engine over bare asyncio connections.

For `/generate` alone, whose answers come as one small event for each token: a general HTTP client spends
several times more on handing such an event over than the gateway spends on all the rest.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from serval.errors import SettingsError

# SGLang's HTTP server closes idle connections after 5 s; a request must not meet one that is being closed.
IDLE_S = 2.0
OK = 200
# What may wait to be read; then the engine waits too.
BUFFER_BYTES = 1 << 20


class NotReachedError(Exception):
    """No connection, or it ended before the engine began to answer."""


class BrokenAnswerError(Exception):
    """The answer ended before it was complete, or is not HTTP."""


class StalledError(Exception):
    """Nothing came for longer than the limit."""


@dataclass(frozen=True)
class Peer:
    """Where and how the engine is reached. Times are in seconds."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    # The request up to its content length.
    request_head: bytes
    connect_timeout_s: float
    stall_timeout_s: float


def peer_of(url: str, *, api_key: str | None, connect_timeout_s: float, stall_timeout_s: float) -> Peer:
    """The engine at the base URL `url`. Raises `SettingsError` if that is not an HTTP URL."""
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
        tls=ssl.create_default_context() if parts.scheme == "https" else None,
        request_head=head.encode("latin-1"),
        connect_timeout_s=connect_timeout_s,
        stall_timeout_s=stall_timeout_s,
    )


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time: `begin`, `answered`, then `read` while it returns True."""

    def __init__(self, stall_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._stall_timeout_s = stall_timeout_s
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        # Of who waits in `answered` or `read`; what it is set to is whether `read` may go on.
        self._waiter: asyncio.Future[bool] | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None
        self._body: list[bytes] = []
        self._buffered = 0
        self._paused = False
        # Of the answer; 0 before it has begun.
        self.status = 0
        # What was taken last wants to be waited for before there is more.
        self._wait_first = False
        self._complete = True
        self._last_data = 0.0
        self.idle_since = 0.0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no common class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._complete:
            # Nothing was asked: what this is cannot be known.
            self.close()
            return
        self._last_data = self._loop.time()
        broken = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            broken = BrokenAnswerError(f"not HTTP: {error}")
        if self._take is not None and self.status == OK:
            self._hand_over(self._take)
        else:
            self._wake()
        if broken is not None:
            self.fail(broken)
        if self._buffered > BUFFER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if not self._complete:
            kind = BrokenAnswerError if self.status else NotReachedError
            self.fail(kind(f"the connection ended: {exc or 'closed by the engine'}"))

    # What the parser calls.

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        self._complete = True
        if not self._parser.should_keep_alive():
            self.close()

    # What the client calls.

    @property
    def reusable(self) -> bool:
        """Whether another exchange may begin."""
        return self._transport is not None and not self._transport.is_closing() and self._complete

    def begin(self, request: bytes) -> None:
        """Send a request. Only when the exchange before it is complete."""
        assert self._transport is not None
        self.status, self._complete, self._failure = 0, False, None
        self._wait_first = False
        self._body.clear()
        self._buffered = 0
        self._last_data = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._stall_timeout_s, self._check_stall)
        self._transport.write(request)

    async def answered(self, take: Callable[[bytes], bool]) -> None:
        """Wait for the answer's `status`. If that is 200, `take` gets what comes of the body as in `read`,
        until this returns, which may be when all has come.

        Raises `NotReachedError`, `BrokenAnswerError` or `StalledError`, and what `take` raises.
        """
        self._take = take
        try:
            while not self.status:
                self._wait_first = not await self._wait()
        finally:
            self._take = None

    async def read(self, take: Callable[[bytes], bool]) -> bool:
        """Call `take` with what comes of the body, as it comes, until it returns False or the body ends.

        False: it has ended. Raises `BrokenAnswerError` or `StalledError`, and what `take` raises.
        """
        while True:
            if self._wait_first:
                self._wait_first = False
                return True
            if self._body:
                if not take(self._taken()):
                    return True
            elif self._complete:
                return False
            else:
                self._take = take
                try:
                    if not await self._wait():
                        return True
                finally:
                    self._take = None

    def end(self) -> None:
        """The exchange is over for the client; a connection with more to come is closed."""
        if not self._complete:
            self._complete = True
            self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _hand_over(self, take: Callable[[bytes], bool]) -> None:
        """Let whoever waits in `read` have what came, and wake it only if it has something to do."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            # It has failed or was cancelled, and does not know yet.
            return
        try:
            go_on = not self._body or take(self._taken())
        except Exception as error:  # noqa: BLE001  # handed to whoever waits, which raises it
            waiter.set_exception(error)
        else:
            if self._complete or not go_on:
                waiter.set_result(go_on)

    def _taken(self) -> bytes:
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def _wait(self) -> bool:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def fail(self, error: Exception) -> None:
        """Let the exchange end with `error`."""
        self._failure = self._failure or error
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _check_stall(self) -> None:
        # One timer for all events, and for exchanges that follow each other: it looks when one would be due.
        self._timer = None
        if self._complete:
            return
        quiet_s = 0.0 if self._paused else self._loop.time() - self._last_data
        if quiet_s < self._stall_timeout_s:
            self._timer = self._loop.call_later(self._stall_timeout_s - quiet_s, self._check_stall)
        else:
            self.fail(StalledError())


class ConnectionPool:
    """Connections to one engine; those that are idle are used again, the latest first."""

    def __init__(self, peer: Peer, *, limit: int) -> None:
        self._peer = peer
        self._slots = asyncio.Semaphore(limit)
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()

    async def post(self, body: bytes, take: Callable[[bytes], bool], *, fresh: bool = False) -> Connection:
        """A connection whose answer to `body` has begun; `release` it. `fresh`: on none that was used before.

        `take` is as in `Connection.answered`, and so is what is raised.
        """
        await self._slots.acquire()
        connection = None
        try:
            connection = (None if fresh else self._take_idle()) or await self._connect()
            self._busy.add(connection)
            connection.begin(b"%b%d\r\n\r\n%b" % (self._peer.request_head, len(body), body))
            await connection.answered(take)
        except BaseException:
            if connection is None:
                self._slots.release()
            else:
                self.release(connection)
            raise
        return connection

    def release(self, connection: Connection) -> None:
        """The exchange is over for the client."""
        self._busy.discard(connection)
        connection.end()
        if connection.reusable:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        self._slots.release()

    def interrupt(self, error: Callable[[], Exception]) -> None:
        """Let each exchange that runs end with an `error`."""
        for connection in self._busy:
            connection.fail(error())

    def close(self) -> None:
        """Close what is idle."""
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
            raise NotReachedError(f"cannot connect: {error or type(error).__name__}") from error
        return connection
