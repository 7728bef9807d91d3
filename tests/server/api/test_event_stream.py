"""A stream of events to a client that reads them, or is stuck for a while."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message

from serval.api.event_stream import EventStream
from serval.errors import EngineFailureError
from serval.telemetry.record import RequestRecord
from serval.wire.chat_response import error_event

A, B, C = b"data: a\n\n", b"data: b\n\n", b"data: c\n\n"
PING = b": ping\n\n"
Write = Callable[[EventStream], Awaitable[None]]


class Client:
    """Records pieces, unless it is `stuck`."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.takes = asyncio.Event()
        self.takes.set()
        # Set when a direct write was refused while it was stuck.
        self.refused = asyncio.Event()
        self._more = asyncio.Event()

    def stuck(self) -> None:
        self.takes.clear()

    async def has_got(self, piece: bytes, *, times: int = 1) -> None:
        while self.pieces.count(piece) < times:
            self._more.clear()
            await self._more.wait()

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        if message["type"] == "http.response.start":
            self._add(b"head")
        else:
            self._add(message["body"] if message["more_body"] else b"end")

    def write_chunk(self, data: bytes) -> bool:
        if not self.takes.is_set():
            self.refused.set()
            return False
        self._add(data)
        return True

    def _add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self._more.set()


def stream_to(client: Client, **options: Any) -> EventStream:
    record = RequestRecord(request_id="r", method="POST", route="/")
    intervals = {"first_byte_s": 3600, "ping_interval_s": 3600} | options
    return EventStream(client.send, client, record=record, headers=dict, error_event=error_event, **intervals)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_event_stream_sends_an_event_in_write_once_begun() -> None:
    client = Client()

    async def write(to: EventStream) -> None:
        assert not to.write(A)
        assert client.pieces == []
        await to.ready()
        assert client.pieces == [b"head", A]
        assert to.write(B)
        assert client.pieces == [b"head", A, B]

    await stream_to(client).run(write)
    assert client.pieces == [b"head", A, B, b"end"]


async def test_event_stream_waits_for_a_stuck_client_and_loses_nothing() -> None:
    client, waited = Client(), asyncio.Event()

    async def write(to: EventStream) -> None:
        to.write(A)
        await to.ready()
        client.stuck()
        assert not to.write(B)
        waited.set()
        await to.ready()
        assert to.write(A)

    stream = stream_to(client)
    running = asyncio.create_task(stream.run(write))
    await waited.wait()
    await turns()
    assert client.pieces == [b"head", A]
    client.takes.set()
    # From another choice, before the waiting one runs again.
    assert not stream.write(C)
    await running
    assert client.pieces == [b"head", A, B, C, A, b"end"]


async def test_event_stream_sends_events_before_an_error() -> None:
    client = Client()

    async def write(to: EventStream) -> None:
        to.write(A)
        raise EngineFailureError("It failed.")

    await stream_to(client).run(write)
    head, body, end = client.pieces
    assert (head, end) == (b"head", b"end")
    assert body.startswith(A + b'data: {"error":')


async def test_event_stream_raises_an_error_before_the_first_byte() -> None:
    client = Client()

    async def write(to: EventStream) -> None:
        raise EngineFailureError("It failed.")

    with pytest.raises(EngineFailureError):
        await stream_to(client).run(write)
    assert client.pieces == []


async def test_event_stream_pings_before_the_first_event() -> None:
    client = Client()

    async def write(to: EventStream) -> None:
        await client.has_got(PING, times=3)
        to.write(A)

    await stream_to(client, first_byte_s=0.001, ping_interval_s=0.001).run(write)
    assert client.pieces[:2] == [b"head", PING]
    assert client.pieces[-2:] == [A, b"end"]


async def test_event_stream_sends_a_stuck_client_one_ping() -> None:
    client = Client()

    async def write(to: EventStream) -> None:
        await client.has_got(PING)
        client.stuck()
        before = len(client.pieces)
        await client.refused.wait()
        # Long enough for more pings to be due.
        await asyncio.sleep(0.02)
        client.takes.set()
        await to.ready()
        assert client.pieces[before:] == [PING]

    await stream_to(client, first_byte_s=0.001, ping_interval_s=0.001).run(write)
