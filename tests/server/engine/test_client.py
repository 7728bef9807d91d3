"""The engine's client against an engine that a test scripts byte for byte."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from serval.engine.client import SglangEngine, connect_engine
from serval.engine.protocol import GenerateRequest, GenerationDelta
from serval.errors import ApiError
from serval.settings import Settings

Write = Callable[[bytes], None]
Script = Callable[["Peer", str, Write], Awaitable[None]]


@dataclass
class Peer:
    """An engine: its connections, the ids that it was sent, and those it was told to abort."""

    connections: int = 0
    asked: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    abort_seen: asyncio.Event = field(default_factory=asyncio.Event)


def event(rid: str, text: str, finish: dict[str, Any] | None) -> bytes:
    meta = {"id": rid, "prompt_tokens": 1, "completion_tokens": 1, "finish_reason": finish}
    return b"data: " + json.dumps({"text": text, "meta_info": meta}).encode() + b"\n\n"


def answer(rid: str, text: str, *, before: bytes = b"") -> bytes:
    """A complete response to the request `rid`."""
    body = before + event(rid, text, {"type": "stop", "matched": 2}) + b"data: [DONE]\n\n"
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@asynccontextmanager
async def engine_saying(script: Script) -> AsyncIterator[tuple[SglangEngine, Peer]]:
    """A client of an engine that calls `script` with the id of each request and a function that writes."""
    peer = Peer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head.lower())
                assert found is not None
                rid: str = json.loads(await reader.readexactly(int(found[1])))["rid"]
                if b"/abort_request" in head:
                    peer.aborted.append(rid)
                    peer.abort_seen.set()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                else:
                    peer.asked.append(rid)
                    await script(peer, rid, writer.write)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, connect_engine(Settings(engine_url=f"http://127.0.0.1:{port}")) as engine:
        yield engine, peer


class Sink:
    """Collects the text of an answer. `slow`: can take no more after each delta."""

    def __init__(self, *, slow: bool) -> None:
        self.text = ""
        self._slow = slow

    def send(self, delta: GenerationDelta) -> bool:
        self.text += delta.text
        return not self._slow

    async def ready(self) -> None:
        pass


async def ask(engine: SglangEngine, rid: str, *, slow: bool = False) -> str:
    sink = Sink(slow=slow)
    sampling: dict[str, Any] = {"max_new_tokens": 5}
    await engine.generate(GenerateRequest(rid, [1, 2, 3], sampling), sink)
    return sink.text


@pytest.mark.parametrize("late", [False, True], ids=["with the answer", "with the next request"])
async def test_generate_never_takes_a_second_answer_for_that_of_the_next_request(late: bool) -> None:
    """A duplicate that comes between two requests is tried in `test_connection.py`."""

    async def script(peer: Peer, rid: str, write: Write) -> None:
        first = len(peer.asked) == 1
        if first and not late:
            write(answer(rid, "own") + answer(rid, "stale"))
        elif len(peer.asked) == 2 and late:
            # Written as the next request arrives: nothing but the id tells that it is not the answer.
            write(answer(peer.asked[0], "stale") + answer(rid, "own"))
        else:
            write(answer(rid, "own"))

    async with engine_saying(script) as (engine, peer):
        assert await ask(engine, "r-1") == "own"
        if late:
            with pytest.raises(ApiError) as caught:
                await ask(engine, "r-2")
            assert (caught.value.status, caught.value.code) == (502, "engine_protocol_error")
            # The engine may be at work on it.
            await asyncio.wait_for(peer.abort_seen.wait(), 60)
            assert peer.aborted == ["r-2"]
        assert await ask(engine, "r-3") == "own"
        # One connection was for the abort.
        assert peer.connections == (3 if late else 2)


async def test_request_that_was_not_answered_is_aborted_again_in_case_the_abort_overtook_it() -> None:
    async def script(peer: Peer, rid: str, write: Write) -> None:
        arrived.set()
        await asyncio.Event().wait()

    arrived = asyncio.Event()
    async with engine_saying(script) as (engine, peer):
        asking = asyncio.create_task(ask(engine, "r-1"))
        await arrived.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await engine.finish_aborts()
        assert peer.aborted == ["r-1"] * 3


async def test_request_that_was_never_sent_is_not_aborted() -> None:
    async def script(peer: Peer, rid: str, write: Write) -> None:
        raise AssertionError("nothing is sent")

    async with engine_saying(script) as (engine, peer):
        asking = asyncio.create_task(ask(engine, "r-1"))
        await asyncio.sleep(0)  # it begins to connect
        asking.cancel()
        await asyncio.wait([asking])
        await engine.finish_aborts()
        assert (peer.asked, peer.aborted) == ([], [])


async def test_generate_does_not_reuse_a_connection_on_which_an_answer_changed_its_id() -> None:
    async def script(peer: Peer, rid: str, write: Write) -> None:
        if len(peer.asked) > 1:
            write(answer(rid, "own"))
            return
        first = event(rid, "own", None)
        whole = answer("another", "stale", before=first)
        head_and_first = whole.index(first) + len(first)
        write(whole[:head_and_first])
        await asyncio.sleep(0.05)
        write(whole[head_and_first:])

    async with engine_saying(script) as (engine, peer):
        with pytest.raises(ApiError) as caught:
            await ask(engine, "r-1", slow=True)
        assert caught.value.code == "engine_protocol_error"
        await asyncio.wait_for(peer.abort_seen.wait(), 60)
        assert await ask(engine, "r-2") == "own"
        assert peer.connections == 3


async def test_generate_reads_the_answer_to_the_id_of_a_second_attempt() -> None:
    async def script(peer: Peer, rid: str, write: Write) -> None:
        if len(peer.asked) == 1:
            raise ConnectionError("closed without an answer")
        write(answer(rid, "own"))

    async with engine_saying(script) as (engine, peer):
        assert await ask(engine, "r-1234") == "own"
        assert len(set(peer.asked)) == 2
