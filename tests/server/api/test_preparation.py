"""Requests that cannot be served cost little: they are refused before their text is tokenised to its end."""

import asyncio
import json
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from serval.api.preparation import result_or_error
from serval.chat.long_text import TokenLimitError
from serval.chat.tokenizer import ControlSafeTokenizer
from serval.errors import InvalidRequestError
from serval.scheduling.body_budget import FREE_BYTES
from serval_testkit.gateway import API_KEY, DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.stand_in_engine import StandInEngine

CONTEXT = 1000
WORDS = "word " * 400_000
HI = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    engine = StandInEngine(
        model_path=str(DEMO_CHECKPOINT), context_length=CONTEXT, max_req_input_len=CONTEXT - 1
    )
    async with running_gateway(engine=engine) as running:
        yield running


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of tokens that the tokenizer made."""
    made: list[int] = []
    encode_text = ControlSafeTokenizer.encode_text

    def counting(self: ControlSafeTokenizer, text: str, **options: Any) -> Any:
        ids = encode_text(self, text, **options)
        made.append(len(ids))
        return ids

    monkeypatch.setattr(ControlSafeTokenizer, "encode_text", counting)
    return made


async def error_of(gateway: RunningGateway, path: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    response = await gateway.post({"model": MODEL, **fields}, path=path)
    return response.status, (await response.json())["error"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": WORDS}]}, "messages"),
        (
            "/v1/chat/completions",
            {"messages": [*HI * 300, {"role": "user", "content": [{"type": "text", "text": WORDS}]}]},
            "messages",
        ),
        (
            "/v1/chat/completions",
            {
                "messages": HI,
                "tools": [{"type": "function", "function": {"name": "f", "description": WORDS}}],
            },
            "messages",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": character * 900} for character in ",;"]},
            "messages",
        ),
        ("/v1/completions", {"prompt": WORDS}, "prompt"),
        ("/v1/completions", {"prompt": ["short", WORDS]}, "prompt"),
        ("/v1/completions", {"prompt": [7] * 2000}, "prompt"),
        ("/v1/completions", {"prompt": [[7], [7] * 2000]}, "prompt"),
        ("/tokenize", {"prompt": WORDS}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": WORDS}]}, "messages"),
        ("/detokenize", {"tokens": [7] * (CONTEXT + 1)}, "tokens"),
    ],
    ids=[
        "chat",
        "chat, parts",
        "chat, tools",
        "chat, two messages",
        "completion",
        "completion, second prompt",
        "completion, ids",
        "completion, second ids",
        "tokenize",
        "tokenize, messages",
        "detokenize",
    ],
)
async def test_prompt_beyond_the_context_is_refused_before_it_is_tokenised(
    gateway: RunningGateway, encoded: list[int], path: str, fields: dict[str, Any], param: str
) -> None:
    status, error = await error_of(gateway, path, **fields)
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", param)
    assert f"maximum context length is {CONTEXT} tokens" in error["message"]
    assert "Shorten" in error["message"]
    assert sum(encoded) <= CONTEXT
    assert gateway.engine.requests == []


async def test_tokenize_and_detokenize_take_a_whole_context(gateway: RunningGateway) -> None:
    response = await gateway.post({"model": MODEL, "prompt": "," * CONTEXT}, path="/tokenize")
    tokens = (await response.json())["tokens"]
    assert len(tokens) == CONTEXT
    response = await gateway.post({"model": MODEL, "tokens": tokens}, path="/detokenize")
    assert (await response.json())["prompt"] == "," * CONTEXT


async def test_prompts_of_one_request_are_bounded_together() -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT), context_length=2001, max_req_input_len=2001)
    async with running_gateway(engine=engine) as gateway:
        status, error = await error_of(gateway, "/v1/completions", prompt=[[7] * 1500] * 100, max_tokens=1)
        assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
        assert "131072 tokens together" in error["message"]
        assert gateway.engine.requests == []


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"messages": HI * 70_000}, "messages"),
        ("/v1/completions", {"prompt": [[]] * 70_000}, "prompt"),
        ("/tokenize", {"messages": HI * 70_000}, "messages"),
        ("/detokenize", {"tokens": [1] * (1 << 20 | 3)}, "tokens"),
    ],
)
async def test_body_with_too_many_values_is_refused(
    gateway: RunningGateway, path: str, fields: dict[str, Any], param: str
) -> None:
    status, error = await error_of(gateway, path, **fields)
    assert (status, error["code"], error["param"]) == (400, "too_many_values", param)


def test_error_of_refused_work_keeps_none_of_its_variables() -> None:
    """A traceback would: several copies of a text of megabytes, until the refusal has been sent."""
    held: list[weakref.ref[StandInEngine]] = []

    def work() -> None:
        variable = StandInEngine(model_path="")
        held.append(weakref.ref(variable))
        try:
            raise TokenLimitError
        except TokenLimitError:
            raise InvalidRequestError("refused") from None

    error = result_or_error(work)
    assert isinstance(error, InvalidRequestError)
    assert held[0]() is None


class Gate:
    """Holds the tokenizer up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)
        encode_text = ControlSafeTokenizer.encode_text

        def gated(tokenizer: ControlSafeTokenizer, text: str, **options: Any) -> Any:
            if len(text) > 10_000:
                self.waiting.release()
                assert self.open.wait(30)
            return encode_text(tokenizer, text, **options)

        monkeypatch.setattr(ControlSafeTokenizer, "encode_text", gated)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.waiting.acquire, timeout=30)


async def begin_post(gateway: RunningGateway, body: bytes, *, missing: int = 0) -> asyncio.StreamWriter:
    """Send a request but for the last `missing` bytes."""
    host, port = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
        % (API_KEY.encode(), len(body))
        + body[: len(body) - missing]
    )
    await writer.drain()
    return writer


async def refused_and_waiting(
    gateway: RunningGateway, body: Any
) -> tuple[aiohttp.ClientResponse, "asyncio.Task[aiohttp.ClientResponse]"]:
    """Send a request twice, until there is room for only one; return the refusal and the one that waits."""
    while True:
        tasks = [asyncio.create_task(gateway.post(body)) for _ in range(2)]
        refused, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # After a client has left, it takes the server a moment to notice.
        more, waiting = await asyncio.wait(waiting, timeout=0.2) if waiting else (set(), waiting)
        if not more and waiting:
            return refused.pop().result(), waiting.pop()


async def test_short_requests_are_served_while_all_threads_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    long = {"model": MODEL, "messages": [{"role": "user", "content": "word " * 4000}], "max_tokens": 1}
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT), context_length=32_768, max_req_input_len=32_768)
    async with running_gateway(engine=engine, render_threads=1, render_queue_limit=1) as gateway:
        running = asyncio.create_task(gateway.post(long))
        await gate.reached()
        refused, leaving = await refused_and_waiting(gateway, long)
        assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (503, True)
        assert (await refused.json())["error"]["code"] == "server_is_overloaded"
        assert (await gateway.post({"model": MODEL, "messages": HI})).status == 200
        assert (await gateway.get("/healthz")).status == 200
        # A client that leaves makes room for another.
        leaving.cancel()
        _, waiting = await refused_and_waiting(gateway, long)
        gate.open.set()
        assert [(await task).status for task in (running, waiting)] == [200, 200]


async def test_bodies_that_are_being_read_are_bounded_for_each_key() -> None:
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * 700_000}]}).encode()
    async with running_gateway(max_body_bytes=1 << 20, held_body_bytes=0) as gateway:
        # The budget is twice the largest body, half of it for one key.
        slow = await begin_post(gateway, body, missing=1)
        async with asyncio.timeout(30):
            while (refused := await gateway.post(body)).status != 429:
                pass
        assert (refused.status, refused.headers["retry-after"]) == (429, "5")
        small = {"model": MODEL, "messages": [{"role": "user", "content": "x" * (FREE_BYTES - 2000)}]}
        assert (await gateway.post(small)).status != 429
        slow.transport.abort()
