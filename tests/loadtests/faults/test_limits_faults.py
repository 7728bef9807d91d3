"""Failures of the limits' Redis or parent: each process allows its share meanwhile, and no slot is lost."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from serval_load.client import Peer, exchange
from serval_load.compare.systems import new_key
from serval_load.programs import process_tree, running_gateway
from serval_testkit.load_stack import KEY, LoadStack, load_stack
from serval_testkit.recovery import Recoveries
from serval_testkit.redis_server import RedisServer, running_redis
from serval_testkit.slow_link import SlowLink

SLOTS = 4
LIMITED = {
    "SERVAL_CONCURRENT_REQUESTS": str(SLOTS),
    # Leases outlast the test, so a free slot is one that was given back.
    "SERVAL_LIMITS_LEASE_S": "3600",
}
# Generous, so that a busy machine does not look like a Redis that is away.
TIMEOUT_S = 2.0
GRACE_S = 0.5


async def until_exact(stack: LoadStack) -> None:
    """Wait until exactly as many requests are served as the limit allows; more is a failure."""
    async with asyncio.timeout(60):
        while (served := await stack.served_at_once(2 * SLOTS)) != SLOTS:
            assert served < SLOTS


@dataclass
class Shared:
    """Gateway whose limits are in a Redis behind `link`; without Redis it allows half of them."""

    stack: LoadStack
    redis: RedisServer
    link: SlowLink
    # Peer with a key that has a daily budget; the operator's has none.
    budgeted: Peer

    async def until_budgeted(self, wanted: int) -> None:
        """Wait until a request with the budgeted key gets the status `wanted`."""
        async with asyncio.timeout(60):
            while (await self.stack.ask(tokens=2, peer=self.budgeted)).status != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until_nothing_is_held(self) -> None:
        """Wait until neither gateway nor engine nor Redis holds a slot."""
        await self.stack.all_free()
        redis = self.redis.admin()
        async with asyncio.timeout(60):
            while any(redis.zcard(key) for key in redis.scan_iter("serval:*:open")):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Shared]:
    with running_redis() as redis, tempfile.TemporaryDirectory(prefix="serval-link-") as folder:
        link = SlowLink(redis.socket)
        database = f"{folder}/keys.db"
        key = await asyncio.to_thread(new_key, database, "--tokens-per-day=1000000")
        settings = {
            **LIMITED,
            "SERVAL_KEY_DATABASE": database,
            "SERVAL_LIMITS_URL": f"unix://{folder}/redis.sock",
            "SERVAL_LIMITS_TIMEOUT_S": str(TIMEOUT_S),
            "SERVAL_LIMITS_SHARE": "0.5",
            "SERVAL_LIMITS_GRACE_S": str(GRACE_S),
        }
        async with link.at(Path(folder) / "redis.sock"), load_stack(settings=settings) as stack:
            yield Shared(stack, redis, link, Peer(stack.peer.host, stack.peer.port, key))


@pytest.mark.asyncio(loop_scope="module")
async def test_killed_redis_ends_no_stream_and_limits_are_exact_after_restart(
    shared: Shared, recovery: Recoveries
) -> None:
    stack = shared.stack
    await until_exact(stack)
    await shared.until_budgeted(200)
    streams = [asyncio.create_task(stack.ask(tokens=1000)) for _ in range(SLOTS)]
    await stack.generating(SLOTS)
    shared.redis.kill()
    # Running requests are in the lost ledger; the gateway's own ledger begins empty.
    assert await stack.served_at_once(2 * SLOTS) == SLOTS // 2
    # Daily budgets cannot be looked up: after a while keys that have one are refused, and no others.
    await shared.until_budgeted(503)
    assert await stack.served_at_once(2 * SLOTS) == SLOTS // 2
    assert all(answer.complete for answer in await asyncio.gather(*streams))
    shared.redis.start()
    with recovery("Redis killed, started again without its data: limits exact"):
        await until_exact(stack)
        await shared.until_budgeted(200)
    await shared.until_nothing_is_held()


@pytest.mark.asyncio(loop_scope="module")
async def test_frozen_redis_delays_no_request_and_holds_no_slot_after_thawing(
    shared: Shared, recovery: Recoveries
) -> None:
    stack = shared.stack
    await until_exact(stack)
    shared.redis.freeze()
    try:
        # These requests wait for Redis; after them it counts as away and none waits.
        await stack.many(2 * SLOTS, tokens=2)
        assert await stack.served_at_once(2 * SLOTS) == SLOTS // 2
    finally:
        shared.redis.thaw()
    with recovery("Redis hung, goes on: limits exact"):
        await until_exact(stack)
    await shared.until_nothing_is_held()


@pytest.mark.asyncio(loop_scope="module")
async def test_slow_redis_counts_exactly(shared: Shared) -> None:
    await until_exact(shared.stack)
    shared.link.delay_s = TIMEOUT_S / 10
    passed = shared.link.passed
    try:
        assert await shared.stack.served_at_once(2 * SLOTS) == SLOTS
        await shared.until_nothing_is_held()
    finally:
        shared.link.delay_s = 0.0
    assert shared.link.passed > passed


async def test_frozen_parent_leaves_each_worker_its_share_and_a_killed_one_stops_them(
    recovery: Recoveries,
) -> None:
    async with load_stack("--workers=2", settings=LIMITED) as stack:
        await until_exact(stack)
        stack.gateway.process.send_signal(signal.SIGSTOP)
        try:
            served = await stack.served_at_once(4 * SLOTS)
        finally:
            stack.gateway.process.send_signal(signal.SIGCONT)
        # Each worker allows half of the limit, however the kernel distributes connections.
        assert SLOTS // 2 <= served <= SLOTS
        with recovery("gateway's parent hung, goes on: limits exact"):
            await until_exact(stack)
        await stack.all_free()

        workers = process_tree(stack.gateway.pid)[1:]
        streams = [asyncio.create_task(stack.ask(tokens=800)) for _ in range(SLOTS)]
        await stack.generating(SLOTS)
        stack.gateway.process.kill()
        assert all(answer.complete for answer in await asyncio.gather(*streams))
        async with asyncio.timeout(60):
            while any(_lives(pid) for pid in workers):  # noqa: ASYNC110  # other processes
                await asyncio.sleep(0.05)
        assert "Refused" in (await exchange(stack.peer, stack.request())).failure
        assert (await stack.engine_load())["num_running_reqs"] == 0
        engine = f"http://{stack.engine_peer.host}:{stack.engine_peer.port}"
        # Restart on the same port, as a supervisor does.
        again = running_gateway(engine, f"--port={stack.peer.port}", environment={"SERVAL_API_KEY": KEY})
        async with AsyncExitStack() as started:
            with recovery("gateway's parent killed, another started: served"):
                await started.enter_async_context(again)
                assert (await stack.ask()).complete


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
