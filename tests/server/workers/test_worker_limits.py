"""Limits with several workers: one authority for all, and nothing a killed worker holds for ever."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest_asyncio

from serval.api.http import cancel_and_wait
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import GatewayProgram, gateway_program, wait_until
from serval_testkit.stand_in_engine import StandInEngine

CHAT: dict[str, Any] = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}]}


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as running:
        yield running


async def status(gateway: GatewayProgram, **fields: Any) -> int:
    """The answer's status, when all of it is there; 0 if the connection broke."""
    try:
        async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=CHAT | fields) as response:
            await response.read()
            return response.status
    except aiohttp.ClientError:
        return 0


async def test_workers_do_not_multiply_a_limit(engine: StandInEngine) -> None:
    options = {"SERVAL_REQUESTS_PER_MINUTE": "6"}
    async with gateway_program(engine.url, "--workers", "3", **options) as gateway:
        began = time.monotonic()
        statuses = Counter(await asyncio.gather(*(status(gateway) for _ in range(40))))
        refilled = (time.monotonic() - began) / 10
        assert 6 <= statuses[200] <= 6 + refilled
        assert statuses[200] + statuses[429] == 40


async def test_workers_that_are_killed_leave_no_slot_taken(engine: StandInEngine) -> None:
    options = {"SERVAL_CONCURRENT_REQUESTS": "4", "SERVAL_LIMITS_LEASE_S": "3600"}
    async with gateway_program(engine.url, "--workers", "2", **options) as gateway:
        for _ in range(4):
            engine.will_say("begin", fault="stall")
        asked = [asyncio.create_task(status(gateway, stream=True)) for _ in range(4)]
        await wait_until(lambda: len(engine.requests) == 4)
        assert await status(gateway) == 429
        for pid in gateway.workers:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(120):
            # Four at once again, long before any lease ends.
            while await asyncio.gather(*(status(gateway) for _ in range(4))) != [200] * 4:
                pass
        await cancel_and_wait(*asked)
