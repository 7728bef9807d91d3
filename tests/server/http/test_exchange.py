"""Responses as bytes: their framing, their number of writes, and their end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from serval.http.asgi import DIRECT_WRITES
from serval.http.server import server_config
from serval.settings import Settings

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH_2 = [(b"content-length", b"2")]
Respond = Callable[[Scope, Send], Awaitable[None]]


class Recorder(asyncio.Transport):
    """A transport that records writes, one entry each, and `b"closed"` when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.reading = True
        self.aborted = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def write_eof(self) -> None:
        self.writes.append(b"end")

    def close(self) -> None:
        self.writes.append(b"closed")

    def abort(self) -> None:
        self.writes.append(b"aborted")
        self.aborted.set()

    def is_closing(self) -> bool:
        return b"closed" in self.writes

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Client:
    """A connection to `respond` without sockets."""

    def __init__(self, respond: Respond, *, reads: bool = True, **settings: Any) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            self.scope = scope
            if reads:
                self.received.append(await receive())
            await respond(scope, send)

        config = server_config(app, Settings(**settings), refused=lambda code: None, lifespan="off")
        config.load()
        # uvicorn calls it by these names.
        make: Any = config.http_protocol_class
        self.scope: Scope = {}
        self.received: list[Message] = []
        self.transport = Recorder()
        self.protocol = make(config=config, server_state=ServerState(), app_state={})
        self.protocol.connection_made(self.transport)

    async def ask(self, *pieces: bytes) -> list[bytes]:
        """Feed the pieces, and return everything written so far."""
        for piece in pieces:
            self.protocol.data_received(piece)
            await turns()
        return self.transport.writes

    def leave(self) -> None:
        self.protocol.connection_lost(None)


async def turns() -> None:
    """Run the event loop until only tasks that wait for an event are left."""
    for _ in range(30):
        await asyncio.sleep(0)


def start(status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers or []}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def whole(scope: Scope, send: Send) -> None:
    await send(start(headers=LENGTH_2))
    await asyncio.sleep(0)
    await send(body(b"{}"))


async def streamed(scope: Scope, send: Send) -> None:
    await send(start())
    await send(body(b"0123456789abcdef", more=True))
    assert scope[DIRECT_WRITES].write_chunk(b"x")
    await send(body())


def after(event: asyncio.Event, respond: Respond) -> Respond:
    async def when_set(scope: Scope, send: Send) -> None:
        await event.wait()
        await respond(scope, send)

    return when_set


async def test_exchange_writes_a_whole_response_at_once() -> None:
    writes = await Client(whole).ask(GET)
    assert writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"]


async def test_exchange_writes_the_head_with_the_first_chunk() -> None:
    writes = await Client(streamed).ask(GET)
    assert writes == [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n",
        b"1\r\nx\r\n",
        b"0\r\n\r\n",
    ]


async def test_exchange_sends_no_chunks_to_an_http_1_0_client() -> None:
    writes = await Client(streamed).ask(b"GET / HTTP/1.0\r\n\r\n")
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    assert writes == [head + b"0123456789abcdef", b"x", b"closed"]


@pytest.mark.parametrize("respond", [whole, streamed])
async def test_exchange_sends_no_body_for_a_head_request(respond: Respond) -> None:
    writes = await Client(respond).ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    head, _, rest = b"".join(writes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_exchange_sends_no_body_with_a_204() -> None:
    async def respond(scope: Scope, send: Send) -> None:
        await send(start(204))
        await send(body())

    assert await Client(respond).ask(GET) == [b"HTTP/1.1 204 No Content\r\n\r\n"]


@pytest.mark.parametrize(
    "asked",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
    ids=["close", "upgrade"],
)
async def test_connection_closes_after_a_request_that_ends_it(asked: bytes) -> None:
    writes = await Client(whole).ask(asked + GET)
    assert writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}", b"closed"]


async def test_connection_closes_if_the_application_asks_for_it() -> None:
    async def respond(scope: Scope, send: Send) -> None:
        await send(start(headers=[*LENGTH_2, (b"connection", b"close")]))
        await send(body(b"{}"))

    (answer, closed) = await Client(respond).ask(GET)
    assert answer.count(b"connection: close") == 1
    assert closed == b"closed"


async def test_receive_sends_100_continue_if_the_client_expects_it() -> None:
    asked = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    client = Client(whole)
    assert await client.ask(asked) == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    await client.ask(b"{}")
    assert client.received[0] == {"type": "http.request", "body": b"{}", "more_body": False}


@pytest.mark.parametrize(
    ("target", "path", "raw", "query"),
    [
        (b"/a%20b?c=%20d", "/a b", b"/a%20b", b"c=%20d"),
        (b"/?", "/", b"/", b""),
        (b"http://x/a?b", "/a", b"/a", b"b"),
    ],
)
async def test_scope_has_the_parts_of_the_target(target: bytes, path: str, raw: bytes, query: bytes) -> None:
    client = Client(whole)
    await client.ask(GET.replace(b"/ ", target + b" ", 1))
    scope = client.scope
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw, query)


async def test_exchange_refuses_a_line_end_in_a_header() -> None:
    async def respond(scope: Scope, send: Send) -> None:
        await send(start(headers=[(b"x-a", b"a\r\nset-cookie: b")]))

    writes = await Client(respond).ask(GET)
    assert writes == [
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        b"closed",
    ]


@pytest.mark.parametrize("data", [b"{", b"{}}"], ids=["too short", "too long"])
async def test_exchange_closes_on_a_wrong_content_length(data: bytes) -> None:
    async def respond(scope: Scope, send: Send) -> None:
        await send(start(headers=LENGTH_2))
        await send(body(data))

    assert await Client(respond).ask(GET) == [b"closed"]


async def _nothing(scope: Scope, send: Send) -> None:
    pass


async def _failing(scope: Scope, send: Send) -> None:
    raise ValueError("a defect")


@pytest.mark.parametrize("respond", [_nothing, _failing])
async def test_exchange_answers_500_for_an_application_that_does_not(
    respond: Respond, caplog: pytest.LogCaptureFixture
) -> None:
    (answer, closed) = await Client(respond).ask(GET)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert closed == b"closed"
    assert ("a defect" in caplog.text) == (respond is _failing)


async def test_exchange_closes_on_a_response_that_breaks_off() -> None:
    async def respond(scope: Scope, send: Send) -> None:
        await send(start())
        await send(body(b"{", more=True))
        raise ValueError("a defect")

    writes = await Client(respond).ask(GET)
    assert writes[-1] == b"closed"
    assert b"0\r\n\r\n" not in writes


async def test_exchange_does_not_write_while_writing_is_paused() -> None:
    client = Client(streamed)
    client.protocol.pause_writing()
    assert await client.ask(GET) == []
    client.protocol.resume_writing()
    await turns()
    assert client.transport.writes[-1] == b"0\r\n\r\n"
    client.protocol.pause_writing()
    assert not client.scope[DIRECT_WRITES].write_chunk(b"x")


async def test_exchange_writes_nothing_after_a_disconnect() -> None:
    gone = asyncio.Event()

    client = Client(after(gone, streamed))
    await client.ask(GET)
    client.leave()
    gone.set()
    await turns()
    assert client.transport.writes == []


async def test_reading_pauses_while_a_large_body_is_buffered() -> None:
    async def respond(scope: Scope, send: Send) -> None:
        await asyncio.sleep(3600)

    client = Client(respond)
    asked = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"
    await client.ask(asked + b"a", b"a" * 60_000)
    assert client.transport.reading
    await client.ask(b"a" * 60_000)
    assert not client.transport.reading
    client.leave()


async def test_reading_pauses_behind_many_pipelined_requests() -> None:
    first = asyncio.Event()

    client = Client(after(first, whole))
    # A few do not pause reading, so that a disconnect is noticed.
    await client.ask(GET * 17)
    assert client.transport.reading
    await client.ask(GET)
    assert not client.transport.reading
    first.set()
    for _ in range(18):
        await turns()
    assert client.transport.reading
    assert b"".join(client.transport.writes).count(b"200 OK") == 18


async def test_body_behind_an_early_response_is_dropped() -> None:
    client = Client(whole, reads=False)
    asked = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    writes = await client.ask(asked, b"a" * 50_000, b"a" * 50_000)
    assert client.transport.reading
    await client.ask(GET)
    assert b"".join(writes).count(b"200 OK") == 2


async def refused(scope: Scope, send: Send) -> None:
    await send(start(413, [*LENGTH_2, (b"connection", b"close")]))
    await send(body(b"{}"))


LARGE_POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"


async def test_connection_stays_open_after_a_refused_body_so_that_the_client_reads_the_response() -> None:
    client = Client(refused, reads=False)
    written = await client.ask(LARGE_POST, b"a" * 50_000, b"a" * 50_000)
    assert written[0].startswith(b"HTTP/1.1 413 ")
    # The end of what is written is told at once; what is sent is read and dropped.
    assert written[1:] == [b"end"]
    assert client.transport.reading
    client.leave()


async def test_connection_is_cut_if_a_client_keeps_sending_after_a_response() -> None:
    client = Client(refused, reads=False)
    await client.ask(LARGE_POST)
    sent, piece = 0, bytes(1 << 20)
    while b"aborted" not in client.transport.writes:
        client.protocol.data_received(piece)
        sent += len(piece)
        assert sent <= 300 << 20
    assert sent > 200 << 20
    client.leave()


async def test_connection_is_cut_in_the_end_after_a_response() -> None:
    client = Client(refused, reads=False, request_body_timeout_s=0.01)
    await client.ask(LARGE_POST)
    await asyncio.wait_for(client.transport.aborted.wait(), 30)
    client.leave()


async def test_body_that_never_ends_gets_no_second_response() -> None:
    client = Client(whole, reads=False, request_body_timeout_s=0.01)
    written = await client.ask(LARGE_POST)
    await asyncio.wait_for(client.transport.aborted.wait(), 30)
    assert b"".join(written).count(b"HTTP/1.1 ") == 1
    client.leave()


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_error_behind_a_request_does_not_answer_it() -> None:
    client = Client(lambda scope, send: asyncio.sleep(3600))
    assert await client.ask(GET, b"not HTTP\r\n\r\n") == [b"aborted"]
    client.leave()


async def test_error_in_a_body_does_not_enter_a_response_in_progress() -> None:
    async def respond(scope: Scope, send: Send) -> None:
        await send(start())
        await send(body(b"{", more=True))
        await asyncio.sleep(3600)

    client = Client(respond, reads=False)
    writes = await client.ask(CHUNKED, b"no number\r\n")
    assert writes[1:] == [b"aborted"]
    client.leave()


async def test_request_with_a_refused_body_ends_at_once() -> None:
    client = Client(whole)
    writes = await client.ask(CHUNKED, b"no number\r\n")
    assert writes[0].startswith(b"HTTP/1.1 400 ")
    assert client.received == [{"type": "http.disconnect"}]
    # The application's response is not sent any more.
    assert writes[1:] == [b"end"]


async def test_shutdown_closes_connections_after_their_responses() -> None:
    go_on = asyncio.Event()

    busy, idle = Client(after(go_on, whole)), Client(after(go_on, whole))
    await busy.ask(GET)
    for client in (busy, idle):
        client.protocol.shutdown()
    assert idle.transport.writes == [b"closed"]
    assert busy.transport.writes == []
    go_on.set()
    await turns()
    await turns()
    assert busy.transport.writes[0].count(b"connection: close") == 1
    assert busy.transport.writes[1:] == [b"closed"]
