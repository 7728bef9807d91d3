"""Limits with several workers: one ledger for all, and no slot that a killed worker holds for ever."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest_asyncio

from serval.api.http import cancel_and_wait
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import gateway_program, wait_until
from serval_testkit.stand_in_engine import StandInEngine


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as running:
        yield running


async def test_workers_share_one_limit(engine: StandInEngine) -> None:
    options = {"SERVAL_REQUESTS_PER_MINUTE": "6"}
    async with gateway_program(engine.url, "--workers", "3", **options) as gateway:
        began = time.monotonic()
        statuses = Counter(await asyncio.gather(*(gateway.chat_status() for _ in range(40))))
        refilled = (time.monotonic() - began) / 10
        assert 6 <= statuses[200] <= 6 + refilled
        assert statuses[200] + statuses[429] == 40


async def test_workers_killed_leave_no_slot_taken(engine: StandInEngine) -> None:
    options = {"SERVAL_CONCURRENT_REQUESTS": "4", "SERVAL_LIMITS_LEASE_S": "3600"}
    async with gateway_program(engine.url, "--workers", "2", **options) as gateway:
        for _ in range(4):
            engine.will_say("begin", fault="stall")
        streams = [asyncio.create_task(gateway.chat_status(stream=True)) for _ in range(4)]
        await wait_until(lambda: len(engine.requests) == 4)
        assert await gateway.chat_status() == 429
        for pid in gateway.workers:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(120):
            # Four requests at once again, long before any lease ends.
            while await asyncio.gather(*(gateway.chat_status() for _ in range(4))) != [200] * 4:
                pass
        await cancel_and_wait(*streams)
