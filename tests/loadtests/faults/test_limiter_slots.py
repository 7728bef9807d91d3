"""Slots of the limiter after a fault: exactly as many requests run at once as before."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from serval_load.programs import process_tree
from serval_testkit.load_stack import LoadStack, load_stack
from serval_testkit.recovery import Recoveries

pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOTS = 4
LIMITED = {"SERVAL_CONCURRENT_REQUESTS": str(SLOTS), "SERVAL_LIMITS_LEASE_S": "3600"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[LoadStack]:
    async with load_stack(settings={**LIMITED, "SERVAL_ENGINE_STALL_TIMEOUT_S": "3"}) as running:
        yield running


@pytest.mark.parametrize("order", ["cut=3", "garbage=3", "error=3", "oom=3", "stall=3", "refuse"])
async def test_failed_request_gives_its_slot_back(stack: LoadStack, order: str) -> None:
    failed = await asyncio.gather(*(stack.ask(order) for _ in range(SLOTS)))
    assert not any(answer.complete for answer in failed)
    assert await stack.served_at_once(2 * SLOTS) == SLOTS
    await stack.all_free()


async def test_vanished_client_gives_its_slot_back(stack: LoadStack) -> None:
    await asyncio.gather(*(stack.ask(tokens=5000, vanish_after_s=0.3) for _ in range(SLOTS)))
    await stack.all_free()
    assert await stack.served_at_once(2 * SLOTS) == SLOTS


async def test_killed_workers_give_their_slots_back(recovery: Recoveries) -> None:
    async with load_stack("--workers=2", settings=LIMITED) as stack:
        streams = [asyncio.create_task(stack.ask(tokens=20_000)) for _ in range(SLOTS)]
        await stack.generating(SLOTS)
        assert await stack.served_at_once(2 * SLOTS) == 0
        for pid in process_tree(stack.gateway.pid)[1:]:
            os.kill(pid, signal.SIGKILL)
        assert not any(answer.complete for answer in await asyncio.gather(*streams))
        with recovery("both gateway workers killed: replaced, every slot free"):
            async with asyncio.timeout(60):
                while (free := await after_restart(stack)) != SLOTS:
                    assert free < SLOTS
                    await asyncio.sleep(0.2)


async def after_restart(stack: LoadStack) -> int:
    """Like `LoadStack.served_at_once`, but also counts while workers are not listening yet."""
    answers = await stack.many(2 * SLOTS, tokens=200)
    return sum(answer.complete for answer in answers)
