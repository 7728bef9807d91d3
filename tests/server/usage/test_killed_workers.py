"""Usage of workers that are killed (`kill -9`) as soon as their clients have their answers."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from serval.store.database import open_database
from serval.store.usage import UsageTable
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import GatewayProgram, gateway_program
from serval_testkit.stand_in_engine import StandInEngine

CHAT = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}]}


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as running:
        yield running


async def tokens_of_chat(gateway: GatewayProgram) -> tuple[int, int]:
    """Prompt and completion tokens of a chat, as its answer says."""
    async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=CHAT) as response:
        assert response.status == 200
        usage = (await response.json())["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


async def test_usage_of_killed_workers_is_whole_and_counted_once(
    engine: StandInEngine, tmp_path: Path
) -> None:
    database = str(tmp_path / "keys.db")
    async with gateway_program(engine.url, "--workers", "2", SERVAL_KEY_DATABASE=database) as gateway:
        answered = await asyncio.gather(*(tokens_of_chat(gateway) for _ in range(40)))
        for worker in gateway.workers:
            os.kill(worker, signal.SIGKILL)
        gateway.program.signal(signal.SIGTERM)
        assert await gateway.end() == 0
    (row,) = UsageTable(open_database(database)).sums((), first=0, end=10**7, most=2)
    prompt, completion = zip(*answered, strict=True)
    assert (row.requests, row.prompt_tokens, row.completion_tokens) == (
        len(answered), sum(prompt), sum(completion),
    )  # fmt: skip
