"""Requests beyond the engine's slots: order in the queue, refusals and their headers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serval.settings import Settings
from serval.store.factory import open_store
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.gateway_process import wait_until

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {API_KEY}"}) as session:
        yield session


@asynccontextmanager
async def busy_gateway(**settings: Any) -> AsyncIterator[tuple[RunningGateway, Callable[[], None]]]:
    """Run a gateway whose only engine slot is taken; yield it and a function that frees the slot."""
    async with running_gateway(engine_slots=1, **settings) as gateway, client() as holder:
        gateway.engine.will_say("held", fault="stall")
        response = await holder.post(gateway.url + PATH, json=CHAT | {"stream": True})
        await response.content.readany()
        await wait_until(lambda: len(gateway.engine.requests) == 1)
        yield gateway, response.close


async def metric(gateway: RunningGateway, name: str) -> float:
    text = await (await gateway.get("/metrics", key=None)).text()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def until_depth(gateway: RunningGateway, depth: float) -> None:
    async with asyncio.timeout(60):
        while await metric(gateway, "serval_queue_depth") != depth:
            pass


async def test_queued_stream_gets_headers_and_pings_at_once() -> None:
    async with busy_gateway(ping_interval_s=0.05) as (gateway, release), client() as waiting:
        async with waiting.post(gateway.url + PATH, json=CHAT | {"stream": True}) as response:
            assert response.status == 200
            received = b""
            while received.count(b": ping") < 3:
                received += await response.content.readany()
            assert len(gateway.engine.requests) == 1
            release()
            rest = await response.content.read()
        assert b"Hello" in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        async with asyncio.timeout(60):
            while await metric(gateway, "serval_queue_wait_seconds_count") != 1:
                pass
        # At least the time of the pings that were received.
        assert await metric(gateway, "serval_queue_wait_seconds_sum") > 0.1


@pytest.mark.parametrize("stream", [False, True])
async def test_request_of_a_client_that_leaves_the_queue_never_reaches_the_engine(stream: bool) -> None:
    async with busy_gateway() as (gateway, release):
        async with client() as leaving:
            request = asyncio.create_task(leaving.post(gateway.url + PATH, json=CHAT | {"stream": stream}))
            await until_depth(gateway, 1)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        await until_depth(gateway, 0)
        release()
        answer = await gateway.post(CHAT)
        assert answer.status == 200
        assert len(gateway.engine.requests) == 2


async def test_more_urgent_class_goes_first() -> None:
    async with busy_gateway() as (gateway, release):
        asked: list[asyncio.Task[Any]] = []
        ways: list[tuple[dict[str, str], dict[str, str]]] = [
            ({"service_tier": "flex"}, {}), ({}, {"x-serval-priority": "bulk"}), ({}, {})
        ]  # fmt: skip
        for place, (fields, headers) in enumerate(ways):
            body = CHAT | {"max_tokens": 10 + place} | fields
            asked.append(asyncio.create_task(gateway.post(body, headers=headers)))
            await until_depth(gateway, place + 1)
        release()
        assert [response.status for response in await asyncio.gather(*asked)] == [200] * 3
        lengths = [request["sampling_params"]["max_new_tokens"] for request in gateway.engine.requests[1:]]
        assert lengths == [12, 10, 11]


async def test_full_queue_and_queue_timeout_are_a_503_with_retry_after() -> None:
    async with busy_gateway(queue_limit=1, max_batch=1, queue_timeout_s=3) as (gateway, _):
        waiting = asyncio.create_task(gateway.post(CHAT))
        await until_depth(gateway, 1)
        for response, code in [
            (await gateway.post(CHAT | {"stream": True}), "server_is_overloaded"),
            (await waiting, "queue_timeout"),
        ]:
            assert response.status == 503
            assert int(response.headers["retry-after"]) > 0
            error = (await response.json())["error"]
            assert (error["type"], error["code"]) == ("service_unavailable_error", code)
        assert len(gateway.engine.requests) == 1


async def test_choices_of_a_request_share_few_slots() -> None:
    async with running_gateway(engine_slots=2) as gateway:
        for place in range(7):
            gateway.engine.will_say(f"c{place}")
        response = await gateway.post(CHAT | {"n": 7})
        answers = {choice["message"]["content"] for choice in (await response.json())["choices"]}
        assert answers == {f"c{place}" for place in range(7)}


async def test_bulk_is_refused_while_the_engine_is_saturated() -> None:
    async with running_gateway() as gateway:
        bulk = {"x-serval-priority": "bulk"}
        assert (await gateway.post(CHAT, headers=bulk)).status == 200
        gateway.engine.kv_use = 0.99
        async with asyncio.timeout(60):
            while (response := await gateway.post(CHAT, headers=bulk)).status == 200:
                pass
        assert response.status == 503
        assert int(response.headers["retry-after"]) > 0
        assert (await response.json())["error"]["code"] == "server_is_overloaded"
        assert await metric(gateway, "serval_engine_saturation") > 1
        assert (await gateway.post(CHAT)).status == 200
        gateway.engine.kv_use = 0.1
        async with asyncio.timeout(60):
            while (await gateway.post(CHAT, headers=bulk)).status != 200:
                pass


async def test_unknown_priority_header_is_a_400() -> None:
    async with running_gateway() as gateway:
        for path, body in ((PATH, CHAT), ("/v1/completions", {"model": MODEL, "prompt": "a"})):
            response = await gateway.post(body, path=path, headers={"x-serval-priority": "urgent"})
            assert response.status == 400
            assert (await response.json())["error"]["param"] == "x-serval-priority"


async def salts_of(gateway: RunningGateway, *keys: str) -> list[str | None]:
    for path, body in ((PATH, CHAT), ("/v1/completions", {"model": MODEL, "prompt": "a"})):
        for key in keys:
            response = await gateway.post(body, path=path, headers={"authorization": f"Bearer {key}"})
            assert response.status == 200
    salts = [request.get("cache_salt") for request in gateway.engine.requests]
    assert salts[: len(keys)] == salts[len(keys) :]
    return salts[: len(keys)]


async def test_keys_share_the_prefix_cache_only_if_configured(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.db")
    store = open_store(Settings(key_database=database))
    one, two = (store.create(name=name, scopes=["inference"])[1] for name in "ab")
    async with running_gateway(key_database=database) as gateway:
        first, second, again, operator = await salts_of(gateway, one, two, one, API_KEY)
        assert None not in (first, second, operator)
        assert first == again
        assert len({first, second, operator}) == 3
    async with running_gateway(key_database=database) as gateway:
        # Every gateway derives the same salt from a key.
        assert await salts_of(gateway, one) == [first]
    async with running_gateway(key_database=database, share_prefix_cache=True) as gateway:
        assert await salts_of(gateway, one, two) == [None, None]
