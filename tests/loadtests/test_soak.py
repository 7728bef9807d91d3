"""A short soak as in CI, and a leak that it must find."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from serval_load.client import exchange
from serval_load.soak import SoakResult, held_now, soak
from serval_testkit.load_stack import LoadStack, load_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[LoadStack]:
    async with load_stack(settings={"SERVAL_CONCURRENT_REQUESTS": "1000"}) as running:
        yield running


async def soaked(stack: LoadStack) -> SoakResult:
    return await soak(
        stack.gateway,
        stack.peer,
        stack.engine_peer,
        seconds=10,
        per_s=5,
        every_s=0.5,
        kinds=(("chat", 0.7), ("short", 0.3)),
        log=print,
    )


async def test_short_soak_leaves_nothing_behind(stack: LoadStack) -> None:
    await stack.ask()
    found = await soaked(stack)
    print(found)
    assert found.requests > 20
    assert found.failed == 0
    assert found.held == {}
    assert found.memory_last_mb - found.memory_first_mb < 30
    assert found.engine["started"] == sum(found.engine.get(how, 0) for how in ("finished", "aborted", "gone"))


async def test_held_now_finds_a_held_slot(stack: LoadStack) -> None:
    holding = asyncio.create_task(exchange(stack.peer, stack.request(tokens=20_000)))
    await stack.generating(1)
    held, _ = await held_now(stack.peer, stack.engine_peer)
    assert held["serval_requests_in_flight"] == 1
    assert held["num_running_reqs"] == 1
    assert held["num_used_tokens"] > 0
    holding.cancel()
    await stack.all_free()
