"""Engine stand-in: SGLang's protocol, read by the gateway's own client and by OpenAI's."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from openai import AsyncOpenAI

from serval.engine.client import SglangEngine, connect_engine
from serval.engine.protocol import GenerateRequest, GenerationDelta
from serval.errors import (
    ApiError,
    EngineFailureError,
    EngineOverloadedError,
    EngineProtocolError,
    EngineStreamBrokenError,
    EngineTimeoutError,
)
from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialects.longcat import LONGCAT
from serval.settings import Settings
from serval.usage.verification import Tokens, engine_tokens
from serval_load.client import Peer, exchange, get, prepared
from serval_load.programs import running_stand_in
from serval_load.stand_in.bare import BareEngine
from serval_load.stand_in.costs import ROUND
from serval_load.stand_in.modelled import ModelledEngine
from serval_load.stand_in.routes import EngineInfo
from serval_load.stand_in.serving import serving

COSTS = replace(ROUND, kv_tokens=1000, decode_base_s=0.001, prefill_base_s=0.001, block_tokens=4)


@dataclass
class Served:
    url: str
    client: SglangEngine

    async def load(self) -> dict[str, Any]:
        told = json.loads(await get(Peer.of(self.url), "/v1/loads"))
        return {**told["loads"][0], **told["stand_in"]}

    async def idle(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                load = await self.load()
                if not load["num_running_reqs"] and not load["num_waiting_reqs"]:
                    return load
                await asyncio.sleep(0.005)


@asynccontextmanager
async def served(*, bare: bool = False, pace_s: float = 0.0) -> AsyncIterator[Served]:
    info = EngineInfo("folder", context_length=2000, max_total_num_tokens=1000, max_running_requests=8)
    engine: Any = BareEngine(info, pace_s=pace_s) if bare else ModelledEngine(info, COSTS)
    async with serving(engine) as url, connect_engine(_settings(url)) as client:
        yield Served(url, client)


def _settings(url: str) -> Settings:
    return Settings(engine_url=url, engine_stall_timeout_s=1)


def generate_request(
    tokens: int, *orders: str, prompt: int = 8, rid: str = "r" * 8, **sampling: Any
) -> GenerateRequest:
    stop = {"stop": [f"stand-in:{order}" for order in orders]} if orders else {}
    return GenerateRequest(rid, list(range(prompt)), {"max_new_tokens": tokens, **stop, **sampling})


class RecordingSink:
    """Sink that records the deltas of an answer."""

    def __init__(self) -> None:
        self.deltas: list[GenerationDelta] = []
        self.begun = asyncio.Event()

    def send(self, delta: GenerationDelta) -> bool:
        self.deltas.append(delta)
        self.begun.set()
        return True

    async def ready(self) -> None:
        raise AssertionError("there may always be more")


async def all_of(engine: SglangEngine, request: GenerateRequest) -> list[GenerationDelta]:
    sink = RecordingSink()
    await engine.generate(request, sink)
    return sink.deltas


@pytest.mark.parametrize("bare", [False, True], ids=["modelled", "bare"])
async def test_engine_client_reads_a_whole_answer(bare: bool) -> None:
    async with served(bare=bare, pace_s=0.002) as stand_in:
        deltas = await all_of(stand_in.client, generate_request(5))
        assert "".join(delta.text for delta in deltas) == " token" * 5
        assert [delta.completion_tokens for delta in deltas][-1] == 5
        assert deltas[-1].finish is not None
        assert (await stand_in.idle())["finished"] == 1


@pytest.mark.parametrize("bare", [False, True], ids=["modelled", "bare"])
async def test_stream_interval_batches_tokens(bare: bool) -> None:
    async with served(bare=bare, pace_s=0.05) as stand_in:
        deltas = await all_of(stand_in.client, generate_request(9, stream_interval=4))
        assert len(deltas) <= 4
        assert deltas[-1].completion_tokens == 9


@pytest.mark.parametrize(
    ("schema", "argument"),
    [
        (
            {"type": "string"},
            "<longcat_arg_key>a</longcat_arg_key>\n<longcat_arg_value>{}</longcat_arg_value>\n",
        ),
        ({"type": "integer"}, ""),
    ],
)
async def test_required_call_is_written_from_the_first_token_to_the_last(
    schema: dict[str, str], argument: str
) -> None:
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    tools = [{"type": "function", "function": {"name": name, "parameters": parameters}} for name in "fg"]
    tag = answer_grammar(LONGCAT, tools, tool_choice="required", parallel_tool_calls=False)
    async with served() as stand_in:
        deltas = await all_of(stand_in.client, generate_request(5, structural_tag=tag))
    assert deltas[0].text.startswith("<longcat_tool_call>f\n")
    whole = f"<longcat_tool_call>f\n{argument.format(' token' * 5)}</longcat_tool_call>"
    assert "".join(delta.text for delta in deltas) == whole
    assert deltas[-1].finish == "stop"


async def test_stand_in_describes_itself_at_start_up() -> None:
    async with served() as stand_in:
        assert await stand_in.client.is_ready()
        info = await stand_in.client.info()
        assert (info.model_path, info.context_length) == ("folder", 2000)
        assert info.max_prompt_tokens < 1000


@pytest.mark.parametrize("bare", [False, True], ids=["modelled", "bare"])
async def test_abort_frees_the_slot(bare: bool) -> None:
    async with served(bare=bare, pace_s=0.01) as stand_in:
        sink = RecordingSink()
        answer = asyncio.create_task(stand_in.client.generate(generate_request(500), sink))
        await sink.begun.wait()
        assert (await stand_in.load())["num_running_reqs"] == 1
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        load = await stand_in.idle()
        assert load.get("aborted", 0) + load.get("gone", 0) == 1
        assert load["num_used_tokens"] == 0


@pytest.mark.parametrize(
    ("order", "error"),
    [
        ("cut=3", EngineStreamBrokenError),
        ("garbage=3", EngineProtocolError),
        ("error=3", ApiError),
        ("oom=3", EngineFailureError),
        ("stall=3", EngineTimeoutError),
        ("refuse", EngineOverloadedError),
    ],
)
async def test_ordered_fault_is_raised_and_leaves_nothing_behind(order: str, error: type[ApiError]) -> None:
    async with served() as stand_in:
        with pytest.raises(ApiError) as raised:
            await all_of(stand_in.client, generate_request(20, order))
        assert isinstance(raised.value, error), repr(raised.value)
        assert (await stand_in.idle())["num_used_tokens"] == 0
        # Another id, because the abort of the first may still be under way.
        assert (await all_of(stand_in.client, generate_request(2, rid="another")))[-1].completion_tokens == 2


async def test_second_request_finds_the_prefix_of_the_first() -> None:
    async with served() as stand_in:
        await all_of(stand_in.client, generate_request(2, prompt=40))
        assert (await all_of(stand_in.client, generate_request(2, prompt=50)))[-1].cached_tokens == 40


async def test_openai_client_reads_whole_and_streamed_answers() -> None:
    async with served() as stand_in:
        client = AsyncOpenAI(base_url=f"{stand_in.url}/v1", api_key="none")
        said: dict[str, Any] = {"model": "stand-in", "messages": [{"role": "user", "content": "hello"}]}
        whole = await client.chat.completions.create(**said, max_tokens=3)
        assert whole.choices[0].message.content == " token" * 3
        stream = await client.chat.completions.create(**said, max_tokens=3, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == " token" * 3
        assert chunks[-1].finish_reason == "length"
        await client.close()


async def test_metrics_have_sglang_names() -> None:
    async with served() as stand_in:
        await all_of(stand_in.client, generate_request(2))
        text = (await get(Peer.of(stand_in.url), "/metrics")).decode()
        assert 'sglang:num_requests_total{model_name="stand-in"} 1\n' in text
        # Tokens of requests that have ended, as `serval usage verify` reads them.
        tokens = json.loads(await get(Peer.of(stand_in.url), "/stand_in/tokens"))
        assert engine_tokens(text) == Tokens(tokens["prompt finished"], tokens["generation finished"])
        assert tokens["generation finished"] == 2


async def test_invalid_body_and_unknown_path_are_refused() -> None:
    async with served() as stand_in:
        peer = Peer.of(stand_in.url)
        bad = await exchange(peer, prepared(peer, b"{", path="/generate"))
        assert bad.data.startswith(b"HTTP/1.1 400")
        assert (await exchange(peer, prepared(peer, b"", path="/x"))).data.startswith(b"HTTP/1.1 404")


async def test_chunked_body_is_read() -> None:
    async with served() as stand_in:
        peer = Peer.of(stand_in.url)
        body = json.dumps({"input_ids": [1], "sampling_params": {"max_new_tokens": 1}}).encode()
        head = b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
        raw = await exchange(peer, head + pieces)
        assert raw.data.startswith(b"HTTP/1.1 200")


async def test_banner_names_the_stand_in() -> None:
    async with running_stand_in("--bare") as (program, url):
        assert "STAND-IN" in program.output.read_text()
        info = json.loads(await get(Peer.of(url), "/server_info"))
        assert "not SGLang" in info["stand_in"]
