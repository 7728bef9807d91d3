"""Rate limits over HTTP: refusals, headers, and the tokens that a request is charged."""

import asyncio
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from serval.api.http import cancel_and_wait
from serval.caller.limits import KeyLimits
from serval.settings import Settings
from serval.store.factory import open_store
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.gateway_process import wait_until

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
TEXT: dict[str, Any] = {"model": MODEL, "prompt": [1, 2, 3], "max_tokens": 10}
# Length of CHAT's prompt.
PROMPT_TOKENS = 3
# Length of the stand-in engine's default answer.
ANSWER_TOKENS = 2


async def left(response: aiohttp.ClientResponse, what: str) -> int:
    return int(response.headers[f"x-ratelimit-remaining-{what}"])


@pytest.mark.parametrize("stream", [False, True])
async def test_response_has_the_state_of_the_limits(stream: bool) -> None:
    async with running_gateway(requests_per_minute=60, tokens_per_minute=6000) as gateway:
        response = await gateway.post({**CHAT, "stream": stream})
        assert response.status == 200
        headers = {name: value for name, value in response.headers.items() if name.startswith("x-rate")}
        assert headers == {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "6000",
            "x-ratelimit-remaining-tokens": str(6000 - PROMPT_TOKENS - 10),
            "x-ratelimit-reset-tokens": "130ms",
        }


async def test_response_without_limits_has_no_limit_headers() -> None:
    async with running_gateway() as gateway:
        response = await gateway.post(CHAT)
        assert not [name for name in response.headers if name.lower().startswith("x-ratelimit")]


@pytest.mark.parametrize("stream", [False, True])
async def test_request_over_the_limit_is_a_429_with_retry_after(stream: bool) -> None:
    async with running_gateway(requests_per_minute=2) as gateway:
        for _ in range(2):
            assert (await gateway.post(CHAT)).status == 200
        response = await gateway.post({**CHAT, "stream": stream})
        assert response.status == 429
        error = (await response.json())["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "requests" in error["message"]
        wait_ms = int(response.headers["retry-after-ms"])
        assert 0 < wait_ms <= 30_000
        assert response.headers["retry-after"] == str(-(-wait_ms // 1000))
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-should-retry" not in response.headers
        assert len(gateway.engine.requests) == 2


async def test_openai_client_waits_as_told_and_then_succeeds() -> None:
    async with running_gateway(requests_per_minute=20) as gateway:
        while (await gateway.post(CHAT)).status != 429:
            pass
        client = gateway.openai.with_options(max_retries=1)
        answer = await client.chat.completions.create(**CHAT)
        assert answer.choices[0].message.content == "Hello world"


async def test_concurrent_requests_cannot_exceed_the_token_limit() -> None:
    async with running_gateway(tokens_per_minute=100) as gateway:
        for _ in range(20):
            gateway.engine.will_say(fault="silent")
        body = {**TEXT, "max_tokens": 30}
        asked = [asyncio.create_task(gateway.post(body, path="/v1/completions")) for _ in range(20)]
        for answered in islice(asyncio.as_completed(asked), 17):
            refused = await answered
            assert refused.status == 429
            assert "tokens" in (await refused.json())["error"]["message"]
        # The accepted requests may reach the engine after the others have been refused.
        await wait_until(lambda: len(gateway.engine.requests) >= 3)
        assert len(gateway.engine.requests) == 3
        await cancel_and_wait(*asked)


async def test_rejected_requests_consume_nothing() -> None:
    async with running_gateway(requests_per_minute=10, tokens_per_minute=100) as gateway:
        for _ in range(20):
            assert (
                await gateway.post({**TEXT, "max_tokens": 98}, path="/v1/completions")
            ).status == 400  # 101 tokens can never fit
        assert (await gateway.post({**TEXT, "max_tokens": 60}, path="/v1/completions")).status == 200
        await gateway.post({**TEXT, "max_tokens": 90}, path="/v1/completions")
        for _ in range(20):
            await gateway.post({**TEXT, "max_tokens": 97}, path="/v1/completions")
        response = await gateway.post({**TEXT, "max_tokens": 1}, path="/v1/completions")
        assert response.status == 200
        assert await left(response, "requests") >= 7


async def test_request_larger_than_the_limit_is_a_400() -> None:
    async with running_gateway(tokens_per_minute=50) as gateway:
        response = await gateway.post({**CHAT, "max_tokens": 60})
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (400, "tokens_exceed_limit")
        assert "63" in error["message"]
        assert "50 tokens a minute" in error["message"]
        # A request without `max_tokens` is accepted, and settled when its length is known.
        assert (await gateway.post({**CHAT, "max_tokens": None})).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_request_is_settled_with_its_use(stream: bool) -> None:
    async with running_gateway(tokens_per_minute=10_000) as gateway:
        await gateway.post({**CHAT, "max_tokens": 5000, "n": 1, "stream": stream})
        response = await gateway.post({**TEXT, "max_tokens": 1}, path="/v1/completions")
        used = 10_000 - 4 - await left(response, "tokens")
        # The bucket may have refilled a little since.
        assert used <= PROMPT_TOKENS + ANSWER_TOKENS


async def test_answer_longer_than_reserved_is_charged_in_full() -> None:
    async with running_gateway(tokens_per_minute=100, reserved_completion_tokens=3) as gateway:
        gateway.engine.will_say(*["x"] * 120)
        assert (await gateway.post({**CHAT, "max_tokens": None})).status == 200
        response = await gateway.post(CHAT)
        assert response.status == 429
        # 123 used and 13 requested exceed the limit by 36.
        assert 15_000 < int(response.headers["retry-after-ms"]) <= 24_000


async def test_reservation_counts_each_choice_and_the_prompt_once() -> None:
    async with running_gateway(tokens_per_minute=6000) as gateway:
        response = await gateway.post({**CHAT, "n": 3})
        assert await left(response, "tokens") == 6000 - PROMPT_TOKENS - 3 * 10
        response = await gateway.post({**TEXT, "prompt": [[1, 2], [3]], "n": 2}, path="/v1/completions")
        assert response.status == 200


async def test_request_refused_by_the_engine_is_not_counted() -> None:
    async with running_gateway(requests_per_minute=1, tokens_per_minute=100) as gateway:
        for _ in range(3):
            gateway.engine.will_say(fault="http_error", status=503)
            assert (await gateway.post(CHAT)).status == 503
        assert (await gateway.post(CHAT)).status == 200


async def client_that_leaves(gateway: RunningGateway, *, stream: bool) -> None:
    """Send a request and disconnect when the engine has begun to answer."""
    gateway.engine.generating.clear()
    gateway.engine.abort_seen.clear()
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {API_KEY}"}) as leaving:
        asking = asyncio.create_task(
            leaving.post(f"{gateway.url}/v1/chat/completions", json={**CHAT, "stream": stream})
        )
        await asyncio.wait_for(gateway.engine.generating.wait(), 60)
        await cancel_and_wait(asking)
    await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)


@pytest.mark.parametrize("stream", [False, True])
async def test_concurrency_slot_is_released_when_the_client_leaves(stream: bool) -> None:
    async with running_gateway(concurrent_requests=1) as gateway:
        for _ in range(5):
            gateway.engine.will_say(fault="silent")
            await client_that_leaves(gateway, stream=stream)
            assert await ask_until_let_in(gateway) == 200


async def ask_until_let_in(gateway: RunningGateway) -> int:
    """Return the first status other than 429; the slot is released after the abort."""
    async with asyncio.timeout(60):
        while (response := await gateway.post(CHAT)).status == 429:
            pass
    return response.status


@pytest.mark.parametrize("fault", ["cut", "garbage", "no_finish", "error_event", "http_error"])
@pytest.mark.parametrize("stream", [False, True])
async def test_concurrency_slot_is_released_after_every_engine_fault(fault: Any, stream: bool) -> None:
    async with running_gateway(concurrent_requests=1) as gateway:
        for _ in range(3):
            gateway.engine.will_say("a", fault=fault)
            await gateway.post({**CHAT, "stream": stream})
        assert (await gateway.post(CHAT)).status == 200


async def test_request_over_the_concurrency_limit_is_a_429() -> None:
    async with running_gateway(concurrent_requests=2) as gateway:
        for _ in range(2):
            gateway.engine.will_say("a", fault="stall")
        asked = [asyncio.create_task(gateway.post({**CHAT, "stream": True})) for _ in range(3)]
        response = await next(asyncio.as_completed(asked))
        assert response.status == 429
        error = (await response.json())["error"]
        assert error["code"] == "rate_limit_exceeded"
        assert "concurrency is 2" in error["message"]
        assert response.headers["retry-after"] == "1"
        await cancel_and_wait(*asked)


async def test_sequential_requests_never_exceed_a_concurrency_of_one() -> None:
    async with running_gateway(concurrent_requests=1) as gateway:
        for number in range(40):
            assert (await gateway.post({**CHAT, "stream": bool(number % 2)})).status == 200


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return str(tmp_path / "keys.db")


async def ask(gateway: RunningGateway, key: str, body: Any = CHAT) -> aiohttp.ClientResponse:
    return await gateway.post(body, headers={"authorization": f"Bearer {key}"})


async def test_exhausted_daily_budget_is_not_retried_and_survives_a_restart(sqlite: str) -> None:
    store = open_store(Settings(key_database=sqlite))
    _, key = store.create(name="a", scopes=["inference"], limits=KeyLimits(tokens_per_day=30))
    async with running_gateway(key_database=sqlite) as gateway:
        gateway.engine.will_say(*["x"] * 10)
        assert (await ask(gateway, key)).status == 200
    async with running_gateway(key_database=sqlite) as gateway:
        gateway.engine.will_say(*["x"] * 10)
        assert (await ask(gateway, key)).status == 200
        response = await ask(gateway, key)
        assert response.status == 429
        error = (await response.json())["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
        assert response.headers["x-should-retry"] == "false"
        assert 0 < int(response.headers["retry-after"]) <= 86_400
        # The client does not retry.
        client = gateway.openai.with_options(api_key=key, max_retries=5)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**CHAT)
        assert len(gateway.engine.requests) == 1


async def test_keys_have_their_own_limits_and_changes_reach_a_running_gateway(sqlite: str) -> None:
    store = open_store(Settings(key_database=sqlite))
    one, key = store.create(name="a", scopes=["inference"], limits=KeyLimits(requests_per_minute=1))
    _, other = store.create(name="b", scopes=["inference"])
    async with running_gateway(key_database=sqlite, requests_per_minute=5) as gateway:
        assert [(await ask(gateway, key)).status for _ in range(2)] == [200, 429]
        # Other keys have the default limit and use of their own.
        for free in (other, API_KEY):
            response = await ask(gateway, free)
            assert (response.status, await left(response, "requests")) == (200, 4)
        await asyncio.to_thread(store.update_limits, one.id, {"requests_per_minute": 0})
        async with asyncio.timeout(60):
            while (response := await ask(gateway, key)).status == 429:
                pass
        assert response.status == 200
        assert "x-ratelimit-limit-requests" not in response.headers


async def test_keys_of_a_file_are_counted_separately(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-one\nsk-two\n")
    async with running_gateway(api_key_file=keys, requests_per_minute=1) as gateway:
        for key in ("sk-one", "sk-two", API_KEY):
            assert [(await ask(gateway, key)).status for _ in range(2)] == [200, 429]


async def test_rejections_are_counted_by_reason() -> None:
    async with running_gateway(requests_per_minute=1, tokens_per_minute=100) as gateway:
        for body in (CHAT, CHAT, {**CHAT, "max_tokens": 200}):
            await gateway.post(body)
        metrics = await (await gateway.get("/metrics", key=None)).text()
    assert 'serval_rejections_total{reason="requests"} 1.0' in metrics
    assert 'serval_rejections_total{reason="too_large"} 1.0' in metrics
