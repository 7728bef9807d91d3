"""Hostile requests, limits and failures on the Messages API: as on the other endpoints."""

import asyncio
import json
import logging
from typing import Any

import aiohttp
import pytest

from serval.telemetry.logs import JsonFormatter
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.stand_in_engine import Fault

PATHS = ("/v1/messages", "/v1/messages/count_tokens")
CANARY = "canary-in-the-prompt"
ASKED: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 9,
    "messages": [{"role": "user", "content": CANARY}],
}
BODY = json.dumps(ASKED).encode()


def with_messages(text: str) -> bytes:
    return b'{"model":"%b","max_tokens":9,"messages":%b}' % (MODEL.encode(), text.encode())


def nested_results(depth: int) -> str:
    opening = '{"type":"tool_result","tool_use_id":"a","content":['
    return '[{"role":"user","content":[' + opening * depth + "]}" * depth + "]}]"


HOSTILE: dict[str, bytes] = {
    "nested": with_messages("[" * 100_000),
    "results in results": with_messages(nested_results(50)),
    "results nested too deeply": with_messages(nested_results(20_000)),
    "input nested too deeply": with_messages(
        '[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":'
        + '{"a":' * 20_000
        + "1"
        + "}" * 20_000
        + "}]}]"
    ),
    "a byte order mark": b"\xef\xbb\xbf" + BODY,
    "UTF-16": BODY.decode().encode("utf-16"),
    "a lone surrogate": with_messages(r'[{"role":"user","content":"\ud800"}]'),
    "a lone surrogate in an input": with_messages(
        r'[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{"a":"\ud800"}}]},'
        r'{"role":"user","content":[{"type":"tool_result","tool_use_id":"a"}]}]'
    ),
    "a number too large": with_messages(
        '[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{"a":1e400}}]},'
        '{"role":"user","content":[{"type":"tool_result","tool_use_id":"a"}]}]'
    ),
    "a hundred thousand blocks": with_messages(
        '[{"role":"user","content":[' + ",".join(['{"type":"text","text":""}'] * 100_000) + "]}]"
    ),
    "thousands of tools": BODY[:-1]
    + b',"tools":['
    + b",".join(b'{"name":"t%d","input_schema":{}}' % number for number in range(2_000))
    + b"]}",
    "no UTF-8 in a field that is not read": BODY[:-1] + b',"odd":"\xff"}',
    "null": b"null",
    "an empty body": b"",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", HOSTILE)
async def test_messages_hostile_body_is_a_400(gateway: RunningGateway, case: str, path: str) -> None:
    response = await gateway.post(HOSTILE[case], path=path)
    assert response.status == 400, await response.text()
    assert (await response.json())["error"]["type"] == "invalid_request_error"
    assert gateway.engine.requests == []
    assert (await gateway.post(ASKED, path=path)).status == 200


@pytest.mark.parametrize("path", PATHS)
async def test_messages_body_over_the_limit_is_a_413(path: str) -> None:
    async with running_gateway(max_body_bytes=2_000) as gateway:
        large = {**ASKED, "system": "x" * 3_000}
        response = await gateway.post(large, path=path)
        assert response.status == 413
        assert (await response.json())["error"]["type"] == "request_too_large"
        assert (await gateway.post(ASKED, path=path)).status == 200


async def test_messages_over_the_limits_of_the_key_are_a_429() -> None:
    async with running_gateway(tokens_per_minute=60) as gateway:
        first = await gateway.post({**ASKED, "max_tokens": 20}, path=PATHS[0])
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-tokens"] == "60"
        gateway.engine.will_say(fault="silent")
        asking = asyncio.ensure_future(gateway.post({**ASKED, "max_tokens": 45}, path=PATHS[0]))
        await asyncio.wait_for(gateway.engine.generating.wait(), 60)
        refused = await gateway.post({**ASKED, "max_tokens": 45}, path=PATHS[0])
        assert refused.status == 429
        assert (await refused.json())["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) > 0
        asking.cancel()


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_client_that_leaves_frees_the_engine(gateway: RunningGateway, stream: bool) -> None:
    gateway.engine.will_say("partial", fault="stall")
    async with aiohttp.ClientSession(headers={"x-api-key": API_KEY}) as leaving:
        asking = asyncio.ensure_future(leaving.post(gateway.url + PATHS[0], json={**ASKED, "stream": stream}))
        await asyncio.wait_for(gateway.engine.generating.wait(), 60)
        if stream:
            response = await asking
            await response.content.readany()
            response.close()
        else:
            asking.cancel()
    await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
    assert gateway.engine.aborted == [gateway.engine.requests[0]["rid"]]


@pytest.mark.parametrize("fault", ["cut", "garbage", "no_finish", "error_event"])
async def test_messages_broken_answer_is_an_error_whole_and_streamed(
    gateway: RunningGateway, fault: Fault
) -> None:
    gateway.engine.will_say("partial", fault=fault)
    whole = await gateway.post(ASKED, path=PATHS[0])
    assert whole.status in (500, 502)
    assert (await whole.json())["error"]["type"] == "api_error"
    gateway.engine.will_say("partial", fault=fault)
    text = await (await gateway.post({**ASKED, "stream": True}, path=PATHS[0])).text()
    assert "event: error\n" in text
    assert "message_stop" not in text


async def test_messages_logs_errors_and_metrics_hold_no_prompt_answer_or_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_gateway() as gateway:
        for fault in (None, "garbage", "error_event"):
            gateway.engine.will_say("canary-answer", fault=fault, message=f"{CANARY} {API_KEY}")
        texts = []
        for body in ({}, {"stream": True}, {}, {"tools": [{"name": 5}]}):
            response = await gateway.post({**ASKED, **body}, path=PATHS[0], headers={"x-api-key": API_KEY})
            texts.append(await response.text())
        for headers in ({"x-api-key": API_KEY + "x"}, {"authorization": CANARY}):
            response = await gateway.post(ASKED, path=PATHS[1], headers=headers)
            assert response.status == 401
            texts.append(await response.text())
        metrics = await (await gateway.get("/metrics")).text()
    assert "canary-answer" in texts[0]
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("serval")]
    assert len(lines) > 5
    for text in (metrics, *texts[2:], *lines):
        for secret in (CANARY, "canary-answer", API_KEY):
            assert secret not in text
    assert 'serval_requests_total{route="/v1/messages",status="200"} 2.0' in metrics
    assert 'serval_requests_total{route="/v1/messages/count_tokens",status="401"} 2.0' in metrics
