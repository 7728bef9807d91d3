"""The limit service: a ledger behind a Unix socket, for any number of workers.

The parent of the workers runs it. However a worker ends, its connection is closed: its slots are free
immediately, and the debits of its requests stay.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

import msgspec

from serval.limits.codec import (
    Charge,
    MessageReader,
    Renew,
    Reserve,
    ReserveReply,
    Settle,
    WorkerMessage,
    encode,
    worker_message_decoder,
)
from serval.limits.factory import open_ledger
from serval.limits.ledger import Ledger, Moment
from serval.limits.local import clock_moment
from serval.settings import Settings
from serval.store.factory import open_store

logger = logging.getLogger(__name__)

_SWEEP_EVERY_S: Final = 20.0


@asynccontextmanager
async def serve_limits(socket_path: Path, settings: Settings) -> AsyncIterator[None]:
    """Serve a ledger at `socket_path`, the `limits_socket` of the workers.

    Raises `SettingsError` if the key database cannot be used.
    """
    store = None if settings.key_database is None else await asyncio.to_thread(open_store, settings)
    ledger, persistence = open_ledger(settings, store)
    async with persistence(), serve_ledger(socket_path, ledger):
        yield


@asynccontextmanager
async def serve_ledger(
    socket_path: Path, ledger: Ledger, *, now: Callable[[], Moment] = clock_moment
) -> AsyncIterator[None]:
    """Serve `ledger` at `socket_path` while entered."""
    connections: set[_WorkerConnection] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _WorkerConnection(ledger, now, connections), socket_path)
    sweeper = asyncio.create_task(_sweep(ledger, now))
    try:
        yield
    finally:
        sweeper.cancel()
        server.close()
        for connection in list(connections):
            connection.drop()
        await server.wait_closed()


async def _sweep(ledger: Ledger, now: Callable[[], Moment]) -> None:
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        ledger.sweep(now())


class _WorkerConnection(asyncio.Protocol):
    """The connection of a worker. Its messages are processed in order."""

    def __init__(
        self, ledger: Ledger, now: Callable[[], Moment], connections: "set[_WorkerConnection]"
    ) -> None:
        self._ledger = ledger
        self._now = now
        self._connections = connections
        self._reader = MessageReader[WorkerMessage](worker_message_decoder)
        self._open: set[str] = set()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        now = self._now()
        answers = []
        try:
            for message in self._reader.feed(data):
                if isinstance(message, Reserve):
                    answers.append(self._reserve(message, now))
                else:
                    self._note(message, now)
        except msgspec.MsgspecError as error:
            logger.error("a worker sent an invalid message: %s", error)
            self.drop()
            return
        if answers:
            self._transport.write(b"".join(answers))

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        for reservation_id in self._open:
            self._ledger.abandon(reservation_id)

    def drop(self) -> None:
        """Close the connection; the worker reconnects."""
        if self._transport is not None:
            self._transport.abort()

    def _reserve(self, message: Reserve, now: Moment) -> bytes:
        decision = self._ledger.reserve(message.request, now)
        if decision.refused is None:
            self._open.add(message.request.id)
        return encode(ReserveReply(message.number, decision))

    def _note(self, message: Settle | Renew | Charge, now: Moment) -> None:
        if isinstance(message, Charge):
            self._ledger.charge(message.subject, message.day, tokens=message.tokens, cost=message.cost)
            return
        if isinstance(message, Renew):
            self._ledger.renew(message.ids, now)
            return
        self._open.discard(message.id)
        self._ledger.settle(
            message.id, requests=message.requests, tokens=message.tokens, cost=message.cost, now=now
        )
