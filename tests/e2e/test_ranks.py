"""An engine with `--dp-size 2`: its ranks are places of their own, and conversations stay on theirs."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serval_sglang.verify.engine import Engine, running_engine
from serval_testkit.fleet import chat
from serval_testkit.gateway import API_KEY, DEMO_CHECKPOINT, RunningGateway, running_gateway

pytestmark = pytest.mark.engine

TURNS = 3


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    flags = ["--dp-size=2"]
    with running_engine(DEMO_CHECKPOINT, dtype="float32", extra_flags=flags) as running:
        yield running


async def loads(gateway: RunningGateway, engine: Engine) -> list[dict[str, Any]]:
    """Return what the engine says about each of its ranks."""
    async with gateway.http.get(f"{engine.base_url}/v1/loads?include=core") as response:
        return sorted((await response.json())["loads"], key=lambda load: load["dp_rank"])


async def computed(gateway: RunningGateway, engine: Engine) -> list[int]:
    """Return the prompt tokens that each rank has computed so far."""
    return [load["total_prefill_uncached_tokens"] for load in await loads(gateway, engine)]


async def becomes(gateway: RunningGateway, engine: Engine, *, running: list[int]) -> None:
    """Wait until the ranks run so many requests, fewest first; one counts only after its first token."""
    async with asyncio.timeout(60):
        while sorted(load["num_running_reqs"] for load in await loads(gateway, engine)) != running:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def eventually_counted(engine: Engine, metric: str, wanted: int) -> None:
    deadline = time.monotonic() + 60
    while (count := engine.metric_total(metric)) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count == wanted


async def turns(gateway: RunningGateway, engine: Engine, subject: str) -> tuple[set[int], list[int]]:
    """Hold a conversation. Return the ranks that computed its prompts, and the cached tokens of each turn."""
    messages = [{"role": "user", "content": f"Tell me about {subject}."}]
    ranks, cached = set(), []
    for _ in range(TURNS):
        before = await computed(gateway, engine)
        answer = await (await gateway.post({**chat(), "messages": messages, "max_tokens": 16})).json()
        after = await computed(gateway, engine)
        ranks |= {rank for rank in (0, 1) if after[rank] > before[rank]}
        cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        messages += [answer["choices"][0]["message"], {"role": "user", "content": "Go on."}]
    return ranks, cached


async def test_turns_stay_on_their_rank_and_an_abort_reaches_it(engine: Engine) -> None:
    url = engine.base_url.replace("127.0.0.1", "127.0.0.{1..1}")
    async with running_gateway(engine_url=url) as gateway:
        used = set()
        for number in range(16):
            ranks, cached = await turns(gateway, engine, f"subject {number}")
            assert len(ranks) == 1
            assert cached[0] < cached[1] < cached[2]
            used |= ranks
            if used == {0, 1}:
                break
        assert used == {0, 1}
        # For seconds, if it is not aborted.
        body = chat("Write a long story.", stream=True, max_tokens=4000, ignore_eos=True)
        headers = {"authorization": f"Bearer {API_KEY}"}
        async with gateway.http.post(
            f"{gateway.url}/v1/chat/completions", json=body, headers=headers
        ) as response:
            await response.content.readany()
            await becomes(gateway, engine, running=[0, 1])
        await becomes(gateway, engine, running=[0, 0])
        # The launcher counts an abort when the rank has reported it, after the rank has forgotten it.
        await asyncio.to_thread(eventually_counted, engine, "sglang:num_aborted_requests_total", 1)
