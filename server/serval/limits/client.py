"""A worker's client of the limit service in the parent process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, cast

from serval.limits.codec import (
    Charge,
    MessageReader,
    Renew,
    Reserve,
    ReserveReply,
    Settle,
    WorkerMessage,
    encode,
    reply_decoder,
)
from serval.limits.limiter import LedgerUnreachableError
from serval.limits.messages import Decision, ReservationRequest

logger = logging.getLogger(__name__)

# The service answers in microseconds; after this time it is considered broken.
_ANSWER_TIMEOUT_S: Final = 2.0
_CONNECT_TIMEOUT_S: Final = 5.0
_RECONNECT_EVERY_S: Final = 0.1


class LimiterClient:
    """A `Limiter` over a Unix socket, with any number of reservations in flight.

    When a connection is lost, the service abandons the reservations made over it.
    """

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._connection: _Connection | None = None
        self._connected = asyncio.Event()

    async def reserve(self, request: ReservationRequest) -> Decision:
        """See `Limiter`. Raises `LedgerUnreachableError`."""
        connection = self._connection
        if connection is None:
            raise LedgerUnreachableError
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                return await connection.reserve(request)
        except BaseException as error:
            # The reply will be dropped; the service must not keep what it may have reserved.
            connection.send(Settle(request.id, 0, 0))
            if isinstance(error, TimeoutError):
                raise LedgerUnreachableError from None
            raise

    def settle(self, request: ReservationRequest, *, requests: int, tokens: int, cost: int = 0) -> None:
        """See `Limiter`."""
        self._send(Settle(request.id, requests, tokens, cost))

    def charge(self, request: ReservationRequest, day: int, *, tokens: int, cost: int) -> None:
        """See `SharedLimiter`. For a parent that hung: one that has ended takes its workers with it."""
        self._send(Charge(request.subject, day, tokens, cost))

    def renew(self, requests: Sequence[ReservationRequest]) -> None:
        """See `Limiter`."""
        if requests:
            self._send(Renew([request.id for request in requests]))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Stay connected while entered. Waits briefly for the first connection."""
        connecting = asyncio.create_task(self._stay_connected())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), _CONNECT_TIMEOUT_S)
        try:
            yield
        finally:
            connecting.cancel()
            if self._connection is not None:
                self._connection.close()

    def _send(self, message: WorkerMessage) -> None:
        if self._connection is not None:
            self._connection.send(message)

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        reported = False
        while True:
            try:
                _, connection = await loop.create_unix_connection(_Connection, str(self._socket_path))
            except OSError as error:
                if not reported:
                    logger.warning("the limit service cannot be reached: %s", error)
                reported = True
                await asyncio.sleep(_RECONNECT_EVERY_S)
                continue
            reported = False
            self._connection = connection
            self._connected.set()
            await connection.lost.wait()
            self._connection = None


class _Connection(asyncio.Protocol):
    """A connection and its outstanding replies."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self._reader = MessageReader[ReserveReply](reply_decoder)
        self._replies: dict[int, asyncio.Future[Decision]] = {}
        self._last_number = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for answer in self._reader.feed(data):
            reply = self._replies.pop(answer.number, None)
            if reply is not None and not reply.done():
                reply.set_result(answer.decision)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(LedgerUnreachableError())

    async def reserve(self, request: ReservationRequest) -> Decision:
        """The service's decision. Raises `LedgerUnreachableError` when the connection is lost."""
        if self.lost.is_set():
            raise LedgerUnreachableError
        self._last_number += 1
        number = self._last_number
        reply: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        try:
            self.send(Reserve(number, request))
            return await reply
        finally:
            self._replies.pop(number, None)

    def send(self, message: WorkerMessage) -> None:
        """Send without waiting; a lost connection is ignored."""
        if self._transport is not None and not self.lost.is_set():
            self._transport.write(encode(message))

    def close(self) -> None:
        """Close the connection after everything has been sent."""
        if self._transport is not None:
            self._transport.close()
