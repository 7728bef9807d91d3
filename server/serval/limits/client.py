"""A worker's way to the authority of its host."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, cast

from serval.limits.codec import (
    Close,
    Decided,
    FromWorker,
    MessageReader,
    Renew,
    Reserve,
    Settle,
    frame,
    from_host,
)
from serval.limits.limiter import AuthorityAwayError
from serval.limits.messages import Ask, Decision

logger = logging.getLogger(__name__)

# The host answers in microseconds; one that needs this long does not work.
_ANSWER_TIMEOUT_S: Final = 2.0
_CONNECT_TIMEOUT_S: Final = 5.0
_RECONNECT_EVERY_S: Final = 0.1


class RemoteLimiter:
    """A `Limiter` that asks over a Unix socket. Any number of questions are under way at once.

    A connection that is lost takes its reservations with it; the host counts them as abandoned.
    """

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._link: _Link | None = None
        self._connected = asyncio.Event()

    async def reserve(self, ask: Ask) -> Decision:
        """See `Limiter`. Raises `AuthorityAwayError`."""
        link = self._link
        if link is None:
            raise AuthorityAwayError
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                return await link.ask(ask)
        except BaseException as error:
            # Nobody will hear the answer; the host must not keep what it may have reserved.
            link.send(Close(ask.id))
            if isinstance(error, TimeoutError):
                raise AuthorityAwayError from None
            raise

    def settle(self, ask: Ask, tokens: int) -> None:
        """See `Limiter`."""
        self._send(Settle(ask.id, tokens))

    def close(self, ask: Ask) -> None:
        """See `Limiter`."""
        self._send(Close(ask.id))

    def renew(self, asks: Sequence[Ask]) -> None:
        """See `Limiter`."""
        if asks:
            self._send(Renew([ask.id for ask in asks]))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep a connection. Waits for the first one, but not for long."""
        connecting = asyncio.create_task(self._stay_connected())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), _CONNECT_TIMEOUT_S)
        try:
            yield
        finally:
            connecting.cancel()
            if self._link is not None:
                self._link.hang_up()

    def _send(self, message: FromWorker) -> None:
        if self._link is not None:
            self._link.send(message)

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        reported = False
        while True:
            try:
                _, link = await loop.create_unix_connection(_Link, str(self._socket_path))
            except OSError as error:
                if not reported:
                    logger.warning("the host's limits cannot be reached: %s", error)
                reported = True
                await asyncio.sleep(_RECONNECT_EVERY_S)
                continue
            reported = False
            self._link = link
            self._connected.set()
            await link.lost.wait()
            self._link = None


class _Link(asyncio.Protocol):
    """One connection, and who waits for an answer on it."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self._reader = MessageReader[Decided](from_host)
        self._waiting: dict[int, asyncio.Future[Decision]] = {}
        self._asked = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by their class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for answer in self._reader.feed(data):
            waiting = self._waiting.pop(answer.number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer.decision)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(AuthorityAwayError())

    async def ask(self, ask: Ask) -> Decision:
        """The host's decision. Raises `AuthorityAwayError` when the connection is lost."""
        if self.lost.is_set():
            raise AuthorityAwayError
        self._asked += 1
        number = self._asked
        waiting: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            self.send(Reserve(number, ask))
            return await waiting
        finally:
            self._waiting.pop(number, None)

    def send(self, message: FromWorker) -> None:
        """Send without waiting; on a lost connection nothing happens."""
        if self._transport is not None and not self.lost.is_set():
            self._transport.write(frame(message))

    def hang_up(self) -> None:
        """Close the connection when all is sent."""
        if self._transport is not None:
            self._transport.close()
