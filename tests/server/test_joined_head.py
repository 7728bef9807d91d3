"""The head of an answer and its body are one write, and nothing waits for what does not come."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from serval.http_server import server_config
from serval.joined_head import JoinedHead
from serval.settings import Settings


class Recorder(asyncio.Transport):
    """A transport that keeps what is written, one entry a write; `b"closed"` when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.writes.append(b"closed")

    def is_closing(self) -> bool:
        return b"closed" in self.writes


def joined() -> tuple[JoinedHead, list[bytes]]:
    transport = Recorder()
    return JoinedHead(transport, FlowControl(transport), asyncio.get_running_loop()), transport.writes


async def turn() -> None:
    """Let the event loop go round once."""
    await asyncio.sleep(0)


async def test_the_second_write_takes_the_first_along() -> None:
    answer, writes = joined()
    answer.write(b"head ")
    assert writes == []
    answer.write(b"body")
    assert writes == [b"head body"]
    answer.write(b"more")
    await turn()
    assert writes == [b"head body", b"more"]


async def test_a_head_alone_waits_for_one_turn_of_the_event_loop() -> None:
    answer, writes = joined()
    answer.write(b"head")
    await turn()
    assert writes == [b"head"]
    answer.write(b"body")
    assert writes == [b"head", b"body"]


async def test_closing_sends_what_waits() -> None:
    answer, writes = joined()
    answer.write(b"head")
    answer.close()
    await turn()
    assert writes == [b"head", b"closed"]
    assert answer.is_closing()


async def test_a_chunk_is_written_in_http_s_form_and_takes_the_head_along() -> None:
    answer, writes = joined()
    answer.write(b"head ")
    assert answer.write_chunk(b"0123456789abcdef")
    assert writes == [b"head 10\r\n0123456789abcdef\r\n"]


async def test_a_client_that_takes_nothing_is_not_written_to() -> None:
    transport = Recorder()
    flow = FlowControl(transport)
    answer = JoinedHead(transport, flow, asyncio.get_running_loop())
    flow.pause_writing()
    assert not answer.write_chunk(b"a")
    assert transport.writes == []
    flow.resume_writing()
    assert answer.write_chunk(b"a")


async def test_a_connection_that_is_closed_takes_chunks_and_forgets_them() -> None:
    answer, writes = joined()
    answer.close()
    assert answer.write_chunk(b"a")
    await turn()
    assert writes == [b"closed"]


async def _whole(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _slow(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await turn()
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize(
    ("respond", "method", "count"), [(_whole, b"GET", 1), (_slow, b"GET", 2), (_whole, b"HEAD", 1)]
)
async def test_an_answer_of_the_server_is_as_few_writes_as_it_can_be(
    respond: Callable[[Send], Awaitable[None]], method: bytes, count: int
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)

    config = server_config(app, Settings(), refused=lambda code: None, lifespan="off")
    config.load()
    protocol = config.http_protocol_class(config=config, server_state=ServerState(), app_state={})
    transport = Recorder()
    protocol.connection_made(transport)
    protocol.data_received(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in range(5):
        await turn()
    assert len(transport.writes) == count
    answer = b"".join(transport.writes)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n")
    assert answer.endswith(b"\r\n\r\n" if method == b"HEAD" else b"\r\n\r\n{}")
    protocol.connection_lost(None)
