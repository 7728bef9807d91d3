"""Conversations that wait whole, as clients see them: pings, answers, refusals; one engine and several."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from serval_testkit.fleet import chat, eventually, new_engine, running_fleet
from serval_testkit.gateway import API_KEY, RunningGateway, running_gateway
from serval_testkit.stand_in_engine import StandInEngine


async def samples(gateway: RunningGateway) -> dict[str, float]:
    """Return the metrics of conversations."""
    text = await (await gateway.get("/metrics", key=None)).text()
    lines = [line for line in text.splitlines() if line.startswith("serval_conversation")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@asynccontextmanager
async def gateway_of(engine: StandInEngine, *, fleet: bool, **settings: Any) -> AsyncIterator[RunningGateway]:
    """Run a gateway with the engine as its only one, or as a fleet of one."""
    if fleet:
        async with running_fleet(engine, as_range=True, **settings) as running:
            yield running.gateway
    else:
        async with running_gateway(engine=engine, **settings) as gateway:
            yield gateway


@asynccontextmanager
async def full_gateway(
    *, fleet: bool, **settings: Any
) -> AsyncIterator[tuple[RunningGateway, StandInEngine]]:
    """Run a gateway whose engine's cache has room for two conversations, both of which run."""
    engine = new_engine()
    engine.kv_tokens = 1000
    async with (
        gateway_of(engine, fleet=fleet, working_set=0.9, **settings) as gateway,
        aiohttp.ClientSession(headers={"authorization": f"Bearer {API_KEY}"}) as session,
    ):
        for number in range(2):
            engine.will_say("held", fault="stall")
            body = chat(f"Question {number}", stream=True)
            response = await session.post(f"{gateway.url}/v1/chat/completions", json=body)
            await response.content.readany()
        await eventually(lambda: len(engine.requests) == 2)
        yield gateway, engine


async def until_waiting(gateway: RunningGateway, number: int) -> None:
    async with asyncio.timeout(60):
        while (await samples(gateway))["serval_conversations_waiting"] != number:
            pass


@pytest.mark.parametrize("fleet", [False, True])
async def test_stream_without_room_is_kept_alive_and_refused_at_the_bound(fleet: bool) -> None:
    async with full_gateway(fleet=fleet, first_byte_s=0.02, ping_interval_s=0.02, queue_timeout_s=0.4) as (
        gateway, engine,
    ):  # fmt: skip
        text = await (await gateway.post(chat("Another", stream=True))).text()
        assert text.count(": ping") > 1
        assert "queue_timeout" in text
        assert "room for its conversation" in text
        response = await gateway.post(chat("Another"))
        assert response.status == 503
        assert int(response.headers["retry-after"]) >= 1
        assert len(engine.requests) == 2
        found = await samples(gateway)
        assert found["serval_conversations_in_set"] == 2
        assert found["serval_conversations_waiting"] == 0
        assert found["serval_conversation_wait_seconds_count"] == 2


@pytest.mark.parametrize("fleet", [False, True])
async def test_client_that_leaves_while_it_waits_never_reaches_the_engine(fleet: bool) -> None:
    async with full_gateway(fleet=fleet) as (gateway, engine):
        waiting = asyncio.create_task(gateway.post(chat("Another")))
        await until_waiting(gateway, 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until_waiting(gateway, 0)
        assert len(engine.requests) == 2


async def test_conversation_is_answered_once_there_is_room() -> None:
    async with full_gateway(fleet=True) as (gateway, engine):
        waiting = asyncio.create_task(gateway.post(chat("Another")))
        await until_waiting(gateway, 1)
        engine.kv_tokens = 100_000
        assert (await waiting).status == 200
        assert (await samples(gateway))["serval_conversations_in_set"] == 3


@pytest.mark.parametrize("fleet", [False, True])
async def test_engine_that_does_not_tell_its_memory_makes_nobody_wait(fleet: bool) -> None:
    engine = new_engine()
    async with gateway_of(engine, fleet=fleet, working_set=0.9) as gateway:
        for number in range(5):
            assert (await gateway.post(chat(f"Question {number}"))).status == 200


async def test_conversation_whose_place_is_full_runs_where_there_is_room() -> None:
    engines = [new_engine(), new_engine()]
    async with running_fleet(*engines, working_set=0.9) as fleet:
        texts = [
            text for number in range(30) if await fleet.engine_of(text := f"Task {number}") is engines[0]
        ]
        for engine in engines:
            engine.kv_tokens = 1000
            engine.ready = False
            await fleet.reaches(engine, "draining")
            # The other one gets this; conversations of the first one have lost their room.
            assert await fleet.ask("Hello") == 200
            engine.ready = True
            await fleet.reaches(engine, "ready")
        # Each engine has room for two, and the first one has one.
        assert [await fleet.engine_of(text) for text in texts[:2]] == engines
        assert 'serval_place_choices_total{reason="room"} 1.0' in await fleet.metrics()
        assert await fleet.engine_of(texts[1]) is engines[1]
