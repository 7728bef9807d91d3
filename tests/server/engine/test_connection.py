"""HTTP/1.1 exchanges with an engine that a test scripts byte for byte."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from serval.engine import connection as module
from serval.engine.connection import (
    BrokenAnswerError,
    Connection,
    ConnectionPool,
    NotReachedError,
    StalledError,
    peer_of,
)
from serval.errors import SettingsError

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = HEAD + b"5\r\nhello\r\n0\r\n\r\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Peer:
    """Counts connections and records requests."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []


@asynccontextmanager
async def pool_for(
    answer: Handler, *, limit: int = 10, stall_s: float = 120
) -> AsyncIterator[tuple[ConnectionPool, Peer]]:
    """Yield a pool of connections to a server that calls `answer` for each request."""
    peer = Peer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                peer.requests.append(head + await reader.readexactly(length))
                await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = peer_of(
        f"http://127.0.0.1:{port}/base/", api_key="k", connect_timeout_s=60, stall_timeout_s=stall_s
    )
    pool = ConnectionPool(target, limit=limit)
    try:
        yield pool, peer
    finally:
        pool.close()
        server.close()


def saying(*pieces: bytes, close: bool = False) -> Handler:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return answer


class Taken:
    """Records pieces. After `most` of them it applies backpressure each time."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.pieces: list[bytes] = []
        self._most = most

    def __call__(self, data: bytes) -> bool:
        self.pieces.append(data)
        return len(self.pieces) < self._most


@asynccontextmanager
async def posted(pool: ConnectionPool, take: Taken) -> AsyncIterator[Connection]:
    answer = await pool.post(b"{}", take)
    try:
        yield answer
    finally:
        pool.release(answer)


async def exchange(pool: ConnectionPool) -> tuple[int, bytes]:
    take = Taken()
    async with posted(pool, take) as answer:
        assert not await answer.read(take)
        return answer.status, b"".join(take.pieces)


async def first_piece(answer: Connection) -> bytes:
    pieces: list[bytes] = []

    def take(data: bytes) -> bool:
        pieces.append(data)
        return False

    assert await answer.read(take)
    return pieces[0]


async def test_pool_posts_the_body_with_the_key() -> None:
    async with pool_for(saying(WHOLE)) as (pool, peer):
        await exchange(pool)
    head, body = peer.requests[0].split(b"\r\n\r\n")
    assert head.startswith(b"POST /base/generate HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nauthorization: Bearer k\r\n" in head
    assert body == b"{}"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_connection_reads_an_answer_however_it_is_cut(size: int) -> None:
    pieces = [WHOLE[start : start + size] for start in range(0, len(WHOLE), size)]
    async with pool_for(saying(*pieces)) as (pool, _):
        assert await exchange(pool) == (200, b"hello")


async def test_pool_reuses_a_connection() -> None:
    async with pool_for(saying(WHOLE)) as (pool, peer):
        for _ in range(3):
            assert await exchange(pool) == (200, b"hello")
    assert peer.connections == 1


async def test_pool_does_not_reuse_a_connection_idle_for_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IDLE_S", -1.0)
    async with pool_for(saying(WHOLE)) as (pool, peer):
        for _ in range(2):
            assert await exchange(pool) == (200, b"hello")
    assert peer.connections == 2


@pytest.mark.parametrize(
    "last",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        WHOLE + b"more",
        WHOLE + WHOLE,
        WHOLE + HEAD,
        WHOLE + HEAD[:10],
        WHOLE + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother",
    ],
    ids=["asks for it", "no HTTP", "two answers", "another head", "half a head", "another with a length"],
)
async def test_pool_does_not_reuse_a_closing_connection(last: bytes) -> None:
    async with pool_for(saying(last)) as (pool, peer):
        for _ in range(2):
            status, body = await exchange(pool)
            assert (status, body) == (200, b"hello")
    assert peer.connections == 2


async def test_pool_does_not_reuse_a_connection_whose_answer_was_refused() -> None:
    def refuse(_: bytes) -> bool:
        raise LookupError

    async with pool_for(saying(WHOLE)) as (pool, peer):
        with pytest.raises(LookupError):
            await pool.post(b"{}", refuse)
        assert await exchange(pool) == (200, b"hello")
    assert peer.connections == 2


async def test_release_closes_a_connection_with_an_unread_answer() -> None:
    async with pool_for(saying(HEAD + b"5\r\nhello\r\n")) as (pool, peer):
        for _ in range(2):
            async with posted(pool, take := Taken(1)) as answer:
                assert await answer.read(take)
                assert take.pieces == [b"hello"]
    assert peer.connections == 2


async def test_read_returns_buffered_data_before_the_error() -> None:
    async with (
        pool_for(saying(HEAD + b"5\r\nhello\r\n", close=True)) as (pool, _),
        posted(pool, take := Taken(1)) as answer,
    ):
        assert await answer.read(take)
        assert take.pieces == [b"hello"]
        with pytest.raises(BrokenAnswerError):
            await answer.read(take)


@pytest.mark.parametrize("said", [b"nonsense\r\n\r\n", HEAD + b"zz\r\n"])
async def test_connection_reports_invalid_http_as_a_broken_answer(said: bytes) -> None:
    async with pool_for(saying(said)) as (pool, _):
        with pytest.raises(BrokenAnswerError):
            await exchange(pool)


async def test_connection_reports_an_end_without_an_answer_as_not_reached() -> None:
    async with pool_for(saying(close=True)) as (pool, _):
        with pytest.raises(NotReachedError):
            await exchange(pool)


async def test_connection_reports_silence_as_a_stall() -> None:
    async with pool_for(saying(HEAD), stall_s=0.05) as (pool, _):
        with pytest.raises(StalledError):
            await exchange(pool)


@pytest.mark.parametrize("wait_s", [0.0, 0.8], ids=["at once", "after the timer has looked"])
async def test_reused_connection_reports_silence_as_a_stall(wait_s: float) -> None:
    answers = iter([WHOLE, HEAD])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(next(answers))(reader, writer)

    async with pool_for(answer, stall_s=0.4) as (pool, peer):
        assert await exchange(pool) == (200, b"hello")
        await asyncio.sleep(wait_s)
        with pytest.raises(StalledError):
            await exchange(pool)
    assert peer.connections == 1


class RecordedTransport:
    """The part of a transport that a connection uses. `reading` is False while reading is paused."""

    reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


async def test_connection_pauses_reading_while_much_is_buffered() -> None:
    transport = RecordedTransport()
    connection = Connection(stall_timeout_s=3600)
    connection.connection_made(cast(asyncio.Transport, transport))
    connection.begin(b"")
    piece = b"x" * (1 << 16)
    connection.data_received(HEAD)
    sent = 0
    while transport.reading:
        connection.data_received(b"%x\r\n%b\r\n" % (len(piece), piece))
        sent += len(piece)
        assert sent <= 2 * module.BUFFER_BYTES
    assert len(await first_piece(connection)) == sent
    assert transport.reading
    connection.end()


def a_connection_that_answers() -> Connection:
    connection = Connection(stall_timeout_s=3600)
    connection.connection_made(cast(asyncio.Transport, RecordedTransport()))
    connection.begin(b"")
    connection.data_received(HEAD)
    return connection


async def test_connection_hands_data_over_in_data_received() -> None:
    connection, pieces = a_connection_that_answers(), list[bytes]()

    def take(data: bytes) -> bool:
        pieces.append(data)
        return True

    reading = asyncio.create_task(connection.read(take))
    await asyncio.sleep(0)
    connection.data_received(b"1\r\na\r\n")
    assert pieces == [b"a"]
    connection.data_received(b"1\r\nb\r\n0\r\n\r\n")
    assert pieces == [b"a", b"b"]
    assert await reading is False
    connection.end()


async def test_connection_hands_nothing_over_under_backpressure() -> None:
    connection, pieces = a_connection_that_answers(), list[bytes]()

    def take(data: bytes) -> bool:
        pieces.append(data)
        return False

    reading = asyncio.create_task(connection.read(take))
    await asyncio.sleep(0)
    for letter in b"abc":
        connection.data_received(b"1\r\n%c\r\n" % letter)
    assert await reading is True
    assert pieces == [b"a"]
    assert await connection.read(take) is True
    assert pieces == [b"a", b"bc"]
    connection.end()


def a_connection_that_was_asked() -> Connection:
    connection = Connection(stall_timeout_s=3600)
    connection.connection_made(cast(asyncio.Transport, RecordedTransport()))
    connection.begin(b"")
    return connection


async def test_connection_hands_over_a_whole_answer_before_the_caller_wakes() -> None:
    connection, take = a_connection_that_was_asked(), Taken()
    waiting = asyncio.create_task(connection.answered(take))
    await asyncio.sleep(0)
    connection.data_received(HEAD)
    await asyncio.sleep(0)
    assert not waiting.done()
    connection.data_received(b"5\r\nhello\r\n0\r\n\r\n")
    assert take.pieces == [b"hello"]
    await waiting
    assert connection.status == 200
    assert await connection.read(take) is False


async def test_read_reports_backpressure_applied_in_answered() -> None:
    connection, take = a_connection_that_was_asked(), Taken(1)
    waiting = asyncio.create_task(connection.answered(take))
    await asyncio.sleep(0)
    connection.data_received(HEAD + b"1\r\na\r\n")
    connection.data_received(b"1\r\nb\r\n0\r\n\r\n")
    await waiting
    assert await connection.read(take) is True
    assert take.pieces == [b"a"]
    assert await connection.read(take) is True
    assert take.pieces == [b"a", b"b"]
    assert await connection.read(take) is False


async def test_answered_does_not_hand_over_the_body_of_an_error() -> None:
    connection, take = a_connection_that_was_asked(), Taken()
    waiting = asyncio.create_task(connection.answered(take))
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno")
    await waiting
    assert (connection.status, take.pieces) == (400, [])
    assert await connection.read(take) is False
    assert take.pieces == [b"no"]


async def test_read_raises_an_error_of_on_data_and_hands_over_nothing_more() -> None:
    connection, taken = a_connection_that_answers(), 0

    def take(_: bytes) -> bool:
        nonlocal taken
        taken += 1
        raise LookupError

    reading = asyncio.create_task(connection.read(take))
    await asyncio.sleep(0)
    connection.data_received(b"1\r\na\r\n")
    connection.data_received(b"1\r\nb\r\n")
    with pytest.raises(LookupError):
        await reading
    assert taken == 1
    connection.end()


async def test_connection_reads_a_large_answer_whole() -> None:
    piece = b"x" * (1 << 16)
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece)] * 128
    async with pool_for(saying(HEAD, *chunks, b"0\r\n\r\n")) as (pool, _):
        assert await exchange(pool) == (200, piece * 128)


async def test_pool_keeps_to_its_limit_of_connections() -> None:
    async with pool_for(saying(WHOLE), limit=2) as (pool, peer):
        assert await asyncio.gather(*(exchange(pool) for _ in range(10))) == [(200, b"hello")] * 10
    assert peer.connections <= 2


@pytest.mark.parametrize("url", ["ftp://host", "host:1", "http://", "http://host:port", ""])
def test_peer_of_refuses_an_invalid_url(url: str) -> None:
    with pytest.raises(SettingsError, match="engine's URL"):
        peer_of(url, api_key=None, connect_timeout_s=1, stall_timeout_s=1)


def test_peers_share_one_tls_context() -> None:
    """Making one takes tens of milliseconds, in which a gateway that reads its engines again stands still."""
    one, other, plain = (
        peer_of(url, api_key=None, connect_timeout_s=1, stall_timeout_s=1)
        for url in ("https://a", "https://b", "http://a")
    )
    assert one.tls is not None
    assert one.tls is other.tls
    assert plain.tls is None


def test_peer_of_refuses_a_user_without_repeating_it() -> None:
    with pytest.raises(SettingsError, match="SERVAL_ENGINE_API_KEY") as caught:
        peer_of("http://canary@host", api_key=None, connect_timeout_s=1, stall_timeout_s=1)
    assert "canary" not in str(caught.value)
