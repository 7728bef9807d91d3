"""Hostile requests, limits and failures on the Responses API: as on the other endpoints."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serval.telemetry.logs import JsonFormatter
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

PATH = "/v1/responses"
CANARY = "canary-in-the-prompt"
ASKED: dict[str, Any] = {"model": MODEL, "input": CANARY}
BODY = json.dumps(ASKED).encode()
DEEP = '{"a":' * 20_000 + "1" + "}" * 20_000


def with_input(text: str) -> bytes:
    return b'{"model":"%b","input":%b}' % (MODEL.encode(), text.encode())


def with_tools(text: str) -> bytes:
    return BODY[:-1] + b',"tools":' + text.encode() + b"}"


HOSTILE: dict[str, bytes] = {
    "nested": with_input("[" * 100_000),
    "an item nested too deeply": with_input('[{"type":"odd","a":' + DEEP + "}]"),
    "an action nested too deeply": with_input(
        '[{"type":"local_shell_call","call_id":"a","action":' + DEEP + "}]"
    ),
    "tools in tools in tools": with_tools(
        '[{"type":"namespace","name":"a","tools":' * 20_000 + "[]" + "}]" * 20_000
    ),
    "a schema nested too deeply": with_tools('[{"type":"function","name":"f","parameters":' + DEEP + "}]"),
    "a byte order mark": b"\xef\xbb\xbf" + BODY,
    "UTF-16": BODY.decode().encode("utf-16"),
    "a lone surrogate": with_input(r'[{"role":"user","content":"\ud800"}]'),
    "a lone surrogate in a call": with_input(
        r'[{"type":"custom_tool_call","call_id":"a","name":"f","input":"\ud800"},'
        r'{"type":"custom_tool_call_output","call_id":"a","output":"b"}]'
    ),
    "a hundred thousand items": with_input("[" + ",".join(['{"role":"user","content":""}'] * 100_000) + "]"),
    "thousands of tools": with_tools("[" + ",".join(['{"type":"web_search"}'] * 2_000) + "]"),
    "no UTF-8 in a field that is not read": BODY[:-1] + b',"odd":"\xff"}',
    "no UTF-8 in an item of an unknown type": with_input("ITEMS").replace(
        b"ITEMS", b'[{"role":"user","content":"a"},{"type":"odd","a":"\xff"}]'
    ),
    "no UTF-8 in the arguments of a search": with_input("ARGUMENTS").replace(
        b"ARGUMENTS",
        b'[{"type":"tool_search_call","call_id":"a","arguments":{"q":"\xff"}},'
        b'{"type":"tool_search_output","call_id":"a","tools":[]}]',
    ),
    "no UTF-8 in a field of a tool": with_tools("TOOLS").replace(
        b"TOOLS", b'[{"type":"function","name":"f","odd":"\xff"}]'
    ),
    "thousands of loaded tools": with_input(
        '[{"role":"user","content":"a"},{"type":"tool_search_output","tools":['
        + ",".join(f'{{"type":"function","name":"t{number}"}}' for number in range(60_000))
        + "]}]"
    ),
    "null": b"null",
    "an empty body": b"",
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_responses_hostile_body_is_a_400(gateway: RunningGateway, case: str) -> None:
    response = await gateway.post(HOSTILE[case], path=PATH)
    assert response.status == 400, await response.text()
    assert (await response.json())["error"]["type"] == "invalid_request_error"
    assert gateway.engine.requests == []
    assert (await gateway.post(ASKED, path=PATH)).status == 200


async def test_kept_items_with_odd_fields_are_listed_as_they_were_sent(tmp_path: Path) -> None:
    odd = (
        r'[{"role":"user","content":"a","id":null,"x":1e400},{"type":"odd","y":'
        + "[" * 500
        + "]" * 500
        + "}]"
    )
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        answer = await (await gateway.post(with_input(odd), path=PATH)).json()
        assert answer["store"] is True
        listed = await gateway.get(f"{PATH}/{answer['id']}/input_items?order=asc")
        assert listed.status == 200
        first, second = (await listed.json())["data"]
        assert (first["content"], first["x"], second["type"]) == ("a", float("inf"), "odd")
        assert first["id"] != second["id"]


@pytest.mark.parametrize("odd", ["5", "[]", "{}", "true"])
async def test_kept_item_whose_id_is_no_text_is_listed_with_one(tmp_path: Path, odd: str) -> None:
    body = with_input(f'[{{"role":"user","content":"a","id":{odd}}},{{"type":"odd","id":{odd}}}]')
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        answer = await (await gateway.post(body, path=PATH)).json()
        listed = await gateway.get(f"{PATH}/{answer['id']}/input_items")
        assert listed.status == 200
        ids = [item["id"] for item in (await listed.json())["data"]]
        assert all(isinstance(each, str) for each in ids)
        assert len(set(ids)) == 2


async def test_responses_body_over_the_limit_is_a_413() -> None:
    async with running_gateway(max_body_bytes=2_000) as gateway:
        response = await gateway.post({**ASKED, "instructions": "x" * 3_000}, path=PATH)
        assert response.status == 413
        assert (await gateway.post(ASKED, path=PATH)).status == 200


async def test_responses_over_the_limits_of_the_key_are_a_429() -> None:
    async with running_gateway(tokens_per_minute=60) as gateway:
        first = await gateway.post({**ASKED, "max_output_tokens": 20}, path=PATH)
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-tokens"] == "60"
        gateway.engine.will_say(fault="silent")
        asking = asyncio.ensure_future(gateway.post({**ASKED, "max_output_tokens": 45}, path=PATH))
        await asyncio.wait_for(gateway.engine.generating.wait(), 60)
        refused = await gateway.post({**ASKED, "max_output_tokens": 45}, path=PATH)
        assert refused.status == 429
        assert (await refused.json())["error"]["code"] == "rate_limit_exceeded"
        asking.cancel()


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_client_that_leaves_frees_the_engine_and_leaves_nothing(
    tmp_path: Path, stream: bool
) -> None:
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        gateway.engine.will_say("partial", fault="stall")
        headers = {"authorization": f"Bearer {API_KEY}"}
        async with aiohttp.ClientSession(headers=headers) as leaving:
            asking = asyncio.ensure_future(leaving.post(gateway.url + PATH, json={**ASKED, "stream": stream}))
            await asyncio.wait_for(gateway.engine.generating.wait(), 60)
            if stream:
                response = await asking
                await response.content.readany()
                response.close()
            else:
                asking.cancel()
        await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
        (sent,) = gateway.engine.requests
        assert gateway.engine.aborted == [sent["rid"]]
        assert (await gateway.get(f"{PATH}/{sent['rid']}")).status == 404


async def test_responses_logs_errors_and_metrics_hold_no_prompt_answer_or_key(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        for fault in (None, "garbage", "error_event"):
            gateway.engine.will_say("canary-answer", fault=fault, message=f"{CANARY} {API_KEY}")
        texts = []
        for body in ({}, {"stream": True}, {}, {"tools": [{"type": "function", "name": 5}]}):
            response = await gateway.post({**ASKED, **body}, path=PATH)
            texts.append(await response.text())
        metrics = await (await gateway.get("/metrics")).text()
    assert "canary-answer" in texts[0]
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("serval")]
    assert len(lines) > 3
    for text in (metrics, *texts[2:], *lines):
        for secret in (CANARY, "canary-answer", API_KEY):
            assert secret not in text
    assert 'serval_requests_total{route="/v1/responses",status="200"} 2.0' in metrics
