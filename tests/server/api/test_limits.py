"""Rate limits over HTTP: refusals, headers, and the tokens that a request is charged."""

import asyncio
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from serval.api.http import cancel_and_wait
from serval.caller.budgets import Budget, Used
from serval.caller.limits import KeyLimits
from serval.chat.render import ChatRenderer
from serval.chat.tokenizer import ControlSafeTokenizer
from serval.settings import Settings
from serval.store.daily_tokens import DailyTokens
from serval.store.factory import open_store
from serval.store.teams import TeamStore
from serval.store.usage import UsageTable
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.gateway_process import wait_until
from serval_testkit.stand_in_engine import Answer

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


REFUSED_PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a prompt beyond the context": ("/v1/completions", {**TEXT, "prompt": [1] * 9000}),
    "a conversation beyond the context": (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": "a " * 9000}]},
    ),
    "an unknown token": ("/v1/completions", {**TEXT, "prompt": [10**6]}),
    "an empty prompt": ("/v1/completions", {**TEXT, "prompt": ""}),
    "a schema that cannot be enforced": (
        "/v1/chat/completions",
        {
            **CHAT,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "strict": True, "schema": {"$ref": "#/nowhere"}},
            },
        },
    ),
    "a regular expression that is refused": ("/v1/chat/completions", {**CHAT, "regex": "("}),
    "a grammar that is refused": ("/v1/completions", {**TEXT, "ebnf": "root ::="}),
    "more tokens than the key's limit": ("/v1/completions", {**TEXT, "max_tokens": 5000}),
    "a schema that the engine refuses": ("/v1/chat/completions", {**CHAT, "stop": "engine-400"}),
    "text to tokenise": ("/tokenize", {"model": MODEL, "prompt": "x"}),
    "a conversation that cannot be tokenised": ("/tokenize", {"model": MODEL, "messages": []}),
    "tokens": ("/detokenize", {"model": MODEL, "tokens": [1]}),
    "tokens that there are not": ("/detokenize", {"model": MODEL, "tokens": [10**6]}),
}


@pytest.mark.parametrize("name", REFUSED_PROMPTS)
async def test_refused_prompt_counts_as_a_request(name: str) -> None:
    """A request that costs work and is refused cannot be repeated for free."""
    path, body = REFUSED_PROMPTS[name]
    limits = {"requests_per_minute": 3, "tokens_per_minute": 4000}
    async with running_gateway(**limits, operator_grammars=True) as gateway:
        for _ in range(3):
            if body.get("stop") == "engine-400":
                gateway.engine.will_say(fault="http_error", status=400)
            assert (await gateway.post(body, path=path)).status in (200, 400)
        assert (await gateway.post(body, path=path)).status == 429
        assert (await gateway.post(CHAT)).status == 429


async def test_request_refused_for_its_tokens_counts_as_a_request_and_tells_an_honest_wait() -> None:
    async with running_gateway(requests_per_minute=2, tokens_per_minute=6000) as gateway:
        gateway.engine.will_say("x", fault="stall")
        running = asyncio.create_task(gateway.post({**TEXT, "max_tokens": 5990}, path="/v1/completions"))
        await wait_until(lambda: len(gateway.engine.requests) == 1)
        response = await gateway.post(CHAT)
        assert response.status == 429
        assert "tokens a minute" in (await response.json())["error"]["message"]
        # A tenth of a second until the tokens fit, but 30 s from the first one until another request.
        assert 5_000 < int(response.headers["retry-after-ms"]) <= 30_000
        assert (await gateway.post(CHAT)).status == 429
        await cancel_and_wait(running)


@pytest.mark.parametrize(
    ("limit", "path", "body"),
    [
        ("requests_per_minute", "/v1/chat/completions", CHAT),
        ("concurrent_requests", "/v1/chat/completions", CHAT),
        ("requests_per_minute", "/v1/completions", {**TEXT, "prompt": "Hi"}),
        ("concurrent_requests", "/v1/completions", {**TEXT, "prompt": "Hi"}),
        ("requests_per_minute", "/tokenize", {"model": MODEL, "prompt": "Hi"}),
        ("requests_per_minute", "/tokenize", {"model": MODEL, "messages": CHAT["messages"]}),
        ("requests_per_minute", "/detokenize", {"model": MODEL, "tokens": [1]}),
    ],
)
async def test_rate_is_judged_before_the_prompt_is_worked_on(
    limit: str, path: str, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_gateway(**{limit: 1}) as gateway:
        gateway.engine.will_say("x", fault="stall")
        running = asyncio.create_task(gateway.post(CHAT))
        await wait_until(lambda: len(gateway.engine.requests) == 1)
        worked = []
        for name in ("encode_text", "decode"):
            monkeypatch.setattr(ControlSafeTokenizer, name, lambda self, text: worked.append(text))
        monkeypatch.setattr(ChatRenderer, "render", lambda self, messages, tools: worked.append(messages))
        assert (await gateway.post(body, path=path)).status == 429
        assert worked == []
        await cancel_and_wait(running)


async def test_tokenising_needs_no_slot_and_tells_the_state_of_the_limits() -> None:
    # Few a minute, so that none is added in the meantime.
    async with running_gateway(concurrent_requests=1, requests_per_minute=4) as gateway:
        gateway.engine.will_say("x", fault="stall")
        running = asyncio.create_task(gateway.post(CHAT))
        await wait_until(lambda: len(gateway.engine.requests) == 1)
        for path, body in (("/tokenize", {"prompt": "Hi"}), ("/detokenize", {"tokens": [1]})):
            response = await gateway.post({"model": MODEL, **body}, path=path)
            assert response.status == 200
            assert response.headers["x-ratelimit-limit-requests"] == "4"
        assert await left(response, "requests") == 1
        await cancel_and_wait(running)


CALLS_OF_SIX = {
    "choices of a conversation": ("/v1/chat/completions", {**CHAT, "n": 6}),
    "choices of a prompt": ("/v1/completions", {**TEXT, "n": 6}),
    "prompts": ("/v1/completions", {**TEXT, "prompt": ["a"] * 6}),
    "prompts as tokens": ("/v1/completions", {**TEXT, "prompt": [[1]] * 6}),
    "choices of prompts": ("/v1/completions", {**TEXT, "prompt": ["a", "b"], "n": 3}),
}


@pytest.mark.parametrize("name", CALLS_OF_SIX)
async def test_limits_count_the_requests_that_the_engine_runs(name: str) -> None:
    path, body = CALLS_OF_SIX[name]
    async with running_gateway(requests_per_minute=8, concurrent_requests=7) as gateway:
        for _ in range(6):
            gateway.engine.will_say("x", fault="stall")
        running = asyncio.create_task(gateway.post({**body, "stream": True}, path=path))
        await wait_until(lambda: len(gateway.engine.requests) == 6)
        response = await gateway.post({**CHAT, "n": 2})
        assert (response.status, response.headers["retry-after"]) == (429, "1")
        assert "this call makes 2" in (await response.json())["error"]["message"]
        response = await gateway.post(CHAT)
        assert (response.status, await left(response, "requests")) == (200, 8 - 6 - 1)
        await cancel_and_wait(running)


@pytest.mark.parametrize(
    ("limit", "told"), [("concurrent_requests", "5 at once"), ("requests_per_minute", "5 a minute")]
)
@pytest.mark.parametrize("name", CALLS_OF_SIX)
async def test_call_of_more_requests_than_the_limit_is_a_400(name: str, limit: str, told: str) -> None:
    path, body = CALLS_OF_SIX[name]
    async with running_gateway(**{limit: 5}) as gateway:
        for _ in range(6):
            response = await gateway.post(body, path=path)
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (400, "requests_exceed_limit")
            assert told in error["message"]
        assert gateway.engine.requests == []
        # It was refused before any work, so it is not counted.
        assert (await gateway.post({**CHAT, "n": 5})).status == 200


CHARGED: dict[str, dict[str, Any]] = {
    "silent until the client leaves": {"fault": "silent"},
    "silent for too long": {"fault": "silent"},
    "cut off before the first token": {"pieces": (), "fault": "cut"},
    "an answer that cannot be read": {"pieces": (), "fault": "garbage"},
    "ended without a finish": {"pieces": (), "fault": "no_finish"},
}
REFUNDED: dict[str, dict[str, Any]] = {
    "refused": {"fault": "http_error", "status": 400},
    "overloaded": {"fault": "http_error", "status": 503},
    "failed": {"fault": "http_error", "status": 500},
    "refused after the headers": {"pieces": (), "fault": "error_event", "status": 400},
    "failed after the headers": {"pieces": (), "fault": "error_event", "status": 500},
}
LONG: dict[str, Any] = {"model": MODEL, "prompt": [1] * 3000, "max_tokens": 100}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", [*CHARGED, *REFUNDED])
async def test_prompt_that_the_engine_took_is_charged(name: str, stream: bool) -> None:
    """However the request ends; not if the engine says that it did not work on it."""
    timeouts = {"engine_stall_timeout_s": 0.3} if name == "silent for too long" else {}
    async with running_gateway(tokens_per_minute=10_000, **timeouts) as gateway:
        gateway.engine.answers.append(Answer(**{**CHARGED, **REFUNDED}[name]))
        asking = asyncio.create_task(gateway.post({**LONG, "stream": stream}, path="/v1/completions"))
        await wait_until(lambda: len(gateway.engine.requests) == 1)
        if name == "silent until the client leaves":
            await cancel_and_wait(asking)
            await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
        else:
            await asking
        response = await gateway.post({**TEXT, "max_tokens": 1}, path="/v1/completions")
        used = 10_000 - 4 - await left(response, "tokens")
        # The bucket refills by 167 tokens a second.
        assert used > 200 if name in CHARGED else used == 0


async def test_prompt_of_a_client_that_leaves_the_queue_is_not_charged() -> None:
    async with running_gateway(tokens_per_minute=10_000, requests_per_minute=4, engine_slots=1) as gateway:
        gateway.engine.will_say("x", fault="stall")
        running = asyncio.create_task(gateway.post(CHAT))
        await wait_until(lambda: len(gateway.engine.requests) == 1)
        waiting = asyncio.create_task(gateway.post(LONG, path="/v1/completions"))
        await wait_until_metric(gateway, 'serval_queue_depth{class="default"} 1.0')
        await cancel_and_wait(waiting)
        await wait_until_metric(gateway, 'serval_queue_depth{class="default"} 0.0')
        await cancel_and_wait(running)
        response = await gateway.post(CHAT)
        assert 10_000 - await left(response, "tokens") < 100
        # The request itself counts: its prompt was worked on. Another is added after 15 s.
        assert await left(response, "requests") == 1


async def wait_until_metric(gateway: RunningGateway, line: str) -> None:
    async with asyncio.timeout(60):
        while line not in await (await gateway.get("/metrics", key=None)).text():
            pass


async def test_prompt_is_charged_once_for_all_choices_of_a_client_that_leaves() -> None:
    async with running_gateway(tokens_per_minute=10_000, engine_slots=2) as gateway:
        for _ in range(2):
            gateway.engine.will_say(fault="silent")
        body = {**LONG, "prompt": [[1] * 2000, [2] * 2000], "n": 2}
        leaving = asyncio.create_task(gateway.post(body, path="/v1/completions"))
        await wait_until(lambda: len(gateway.engine.requests) == 2)
        await cancel_and_wait(leaving)
        await wait_until(lambda: len(gateway.engine.aborted) == 2)
        # The second prompt has waited for a slot all the time.
        response = await gateway.post({**TEXT, "max_tokens": 1}, path="/v1/completions")
        assert 200 < 10_000 - await left(response, "tokens") < 2100


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
        assert 1_000 < int(response.headers["retry-after-ms"]) <= 24_000


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


async def test_budget_that_running_requests_hold_is_a_short_429(sqlite: str) -> None:
    store = open_store(Settings(key_database=sqlite))
    _, key = store.create(name="a", scopes=["inference"], limits=KeyLimits(tokens_per_day=2000))
    async with running_gateway(key_database=sqlite) as gateway:
        for _ in range(3):
            gateway.engine.will_say("x", fault="stall")
        body = {**CHAT, "max_tokens": 600}
        asked = [asyncio.create_task(ask(gateway, key, body)) for _ in range(12)]
        for answered in islice(asyncio.as_completed(asked), 9):
            response = await answered
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (429, "rate_limit_exceeded")
            assert response.headers["retry-after"] == "1"
            assert "x-should-retry" not in response.headers
            assert "Running requests have reserved" in error["message"]
        await wait_until(lambda: len(gateway.engine.requests) == 3)
        await cancel_and_wait(*asked)
        await wait_until(lambda: len(gateway.engine.aborted) == 3)
        # Used is what the three had been sent and had written.
        response = await ask(gateway, key, body)
        assert response.status == 200
        assert response.headers["x-ratelimit-limit-tokens"] == "2000"
        assert await left(response, "tokens") == 2000 - 3 * (PROMPT_TOKENS + 1) - (PROMPT_TOKENS + 600)
        assert response.headers["x-ratelimit-reset-tokens"].endswith("s")


async def test_budget_of_a_team_in_costs_is_shared_by_its_keys(sqlite: str, tmp_path: Path) -> None:
    """Each call uses 3 tokens of the prompt and 2 of the completion, which cost 3 * 1 + 2 * 10."""
    prices = tmp_path / "prices.toml"
    prices.write_text('["*"]\nprompt = 0.001\ncompletion = 0.01\n')
    store = open_store(Settings(key_database=sqlite))
    budget = Budget("cost", "week", 5 * 23, 3 * 23)
    team = TeamStore(store.engine).create(name="lab", budgets=[budget])
    keys = [store.create(name=name, scopes=["inference"], team=team.id)[1] for name in "ab"]
    body = {**CHAT, "max_tokens": ANSWER_TOKENS}
    async with running_gateway(key_database=sqlite, prices_file=prices) as gateway:
        statuses = [(await ask(gateway, keys[number % 2], body)).status for number in range(8)]
        assert statuses == [200] * 5 + [429] * 3
        response = await ask(gateway, keys[0], body)
        error = (await response.json())["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
        assert "The team 'lab' of this API key's budget of 0.000000115 a week" in error["message"]
        assert response.headers["x-should-retry"] == "false"
        messages = {"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
        response = await gateway.post(
            messages, path="/v1/messages", headers={"authorization": f"Bearer {keys[1]}"}
        )
        refused = await response.json()
        assert (response.status, refused["type"], refused["error"]["type"]) == (
            429, "error", "rate_limit_error",
        )  # fmt: skip
        reached = 'serval_budget_soft_limits_total{period="week",unit="cost"} 1.0'
        async with asyncio.timeout(60):
            while reached not in await (await gateway.get("/metrics")).text():
                pass
    # The books agree with the budget.
    (row,) = UsageTable(store.engine).sums((), first=0, end=10**7, most=2)
    assert int(row.cost) == 5 * 23
    (used,) = [
        each
        for (subject, _), each in DailyTokens(store.engine).load(0, 10**6).items()
        if subject[:5] == "team:"
    ]
    assert used == Used(5 * 5, 5 * 23)


async def test_request_that_its_team_refuses_leaves_nothing_of_its_key_reserved(sqlite: str) -> None:
    store = open_store(Settings(key_database=sqlite))
    team = TeamStore(store.engine).create(name="lab", limits=KeyLimits(requests_per_minute=2))
    limits = KeyLimits(requests_per_minute=5)
    _, key = store.create(name="a", scopes=["inference"], limits=limits, team=team.id)
    async with running_gateway(key_database=sqlite) as gateway:
        answers = [await ask(gateway, key) for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 2 + [429] * 3
        # Headers of an answer are those of the key; of a refusal, those of the limit that refused it.
        assert [await left(answer, "requests") for answer in answers] == [4, 3, 0, 0, 0]
        TeamStore(store.engine).update(team.id, limits={"requests_per_minute": 0})
        async with asyncio.timeout(60):
            while (response := await ask(gateway, key)).status == 429:
                pass
        assert await left(response, "requests") == 2


@pytest.mark.parametrize("n", [1, 2])
async def test_budget_admits_requests_without_a_limit_until_it_is_used_up(sqlite: str, n: int) -> None:
    store = open_store(Settings(key_database=sqlite))
    _, key = store.create(name="a", scopes=["inference"], limits=KeyLimits(tokens_per_day=40))
    body = {**CHAT, "max_tokens": None, "n": n}
    use = PROMPT_TOKENS + n * ANSWER_TOKENS
    async with running_gateway(key_database=sqlite) as gateway:
        for left_before in range(40, PROMPT_TOKENS + n - 1, -use):
            assert (await ask(gateway, key, body)).status == 200, left_before
        response = await ask(gateway, key, body)
        assert (response.status, (await response.json())["error"]["code"]) == (429, "insufficient_quota")


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
        await asyncio.to_thread(store.update, one.id, limits={"requests_per_minute": 0})
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
        for body in ({**CHAT, "max_tokens": 200}, CHAT, {**CHAT, "n": 2}):
            await gateway.post(body)
        metrics = await (await gateway.get("/metrics", key=None)).text()
    assert 'serval_rejections_total{reason="requests"} 1.0' in metrics
    assert 'serval_rejections_total{reason="too_large"} 2.0' in metrics
