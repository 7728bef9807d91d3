"""Gateways as separate programs, sharing limits through one Redis."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from serval.api.http import cancel_and_wait
from serval.caller.budgets import Budget
from serval.cli import main
from serval.settings import Settings
from serval.store.factory import open_store
from serval.store.teams import TeamStore
from serval.store.usage import UsageTable
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import gateway_program, wait_until
from serval_testkit.redis_server import RedisServer, running_redis
from serval_testkit.stand_in_engine import StandInEngine


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as running:
        yield running


async def test_redis_gateways_and_their_workers_share_a_limit(
    redis: RedisServer, engine: StandInEngine
) -> None:
    # A long timeout: a busy machine must not look like an unreachable Redis.
    options = {
        "SERVAL_LIMITS_URL": redis.url,
        "SERVAL_LIMITS_TIMEOUT_S": "5",
        "SERVAL_REQUESTS_PER_MINUTE": "6",
    }
    async with (
        gateway_program(engine.url, **options) as one,
        gateway_program(engine.url, "--workers", "2", **options) as two,
    ):
        began = time.monotonic()
        statuses = Counter(
            await asyncio.gather(*(gateway.chat_status() for _ in range(20) for gateway in (one, two)))
        )
        refilled = (time.monotonic() - began) / 10
    assert 6 <= statuses[200] <= 6 + refilled
    assert statuses[200] + statuses[429] == 40


async def test_redis_slots_of_a_killed_gateway_are_free_after_the_lease(
    redis: RedisServer, engine: StandInEngine
) -> None:
    options = {
        "SERVAL_LIMITS_URL": redis.url,
        "SERVAL_LIMITS_TIMEOUT_S": "5",
        "SERVAL_CONCURRENT_REQUESTS": "2",
        "SERVAL_LIMITS_LEASE_S": "5",
    }
    async with (
        gateway_program(engine.url, **options) as victim,
        gateway_program(engine.url, **options) as survivor,
    ):
        engine.will_say("begin", fault="stall")
        engine.will_say("begin", fault="stall")
        streams = [asyncio.create_task(victim.chat_status(stream=True)) for _ in range(2)]
        await wait_until(lambda: len(engine.requests) == 2)
        # Longer than a lease: running requests are renewed.
        held_until = time.monotonic() + 7
        while time.monotonic() < held_until:
            assert await survivor.chat_status() == 429
            await asyncio.sleep(0.1)
        os.kill(victim.program.process.pid, signal.SIGKILL)
        async with asyncio.timeout(120):
            while await survivor.chat_status() != 200:
                pass
        await cancel_and_wait(*streams)


async def test_budget_of_55_is_enforced_at_55_by_three_gateways(
    redis: RedisServer, engine: StandInEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call uses 5 tokens, and keys of one team ask all gateways and workers at once."""
    options = {
        "SERVAL_KEY_DATABASE": str(tmp_path / "keys.db"),
        "SERVAL_LIMITS_URL": redis.url,
        "SERVAL_LIMITS_TIMEOUT_S": "5",
        # Nothing is admitted if a busy machine makes Redis look unreachable.
        "SERVAL_LIMITS_GRACE_S": "0",
    }
    store = open_store(Settings(key_database=options["SERVAL_KEY_DATABASE"]))
    team = TeamStore(store.engine).create(name="lab", budgets=[Budget("tokens", "month", 55)])
    keys = [store.create(name=name, scopes=["inference"], team=team.id)[1] for name in "abc"]
    async with (
        gateway_program(engine.url, **options) as one,
        gateway_program(engine.url, **options) as two,
        gateway_program(engine.url, "--workers", "2", **options) as three,
    ):
        asked = [(gateway, key) for _ in range(6) for gateway in (one, two, three) for key in keys]

        async def ask_all() -> Counter[int]:
            answers = (
                gateway.chat_status({"authorization": f"Bearer {key}"}, max_tokens=2)
                for gateway, key in asked
            )
            return Counter(await asyncio.gather(*answers))

        statuses = await ask_all()
        # Some are refused because running requests hold the rest, and told to ask again in a second.
        async with asyncio.timeout(120):
            while statuses[200] < 11:
                statuses += await ask_all()
        statuses += await ask_all()
    assert statuses[200] == 11
    assert set(statuses) <= {200, 429, 503}
    # The books agree to the token: those of the database, of Redis, and of the engine.
    assert len(engine.requests) == 11
    (row,) = UsageTable(store.engine).sums((), first=0, end=10**7, most=2)
    assert int(row.prompt_tokens + row.completion_tokens) == 55
    for name, value in options.items():
        monkeypatch.setenv(name, value)
    assert await asyncio.to_thread(main, ["usage", "verify"]) == 0
    # One token more would be found.
    day = next(iter(redis.admin().hkeys(f"serval:{{k:team:{team.id}}}:days")))
    redis.admin().hincrby(f"serval:{{k:team:{team.id}}}:days", day, 1)
    assert await asyncio.to_thread(main, ["usage", "verify"]) == 1
