"""Failures of the engine and disconnects: reported errors, nothing left over, and a server that goes on."""

import asyncio
import json
import socket
from typing import Any

import aiohttp
import openai
import pytest

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

HI: list[Any] = [{"role": "user", "content": "Hi"}]


async def assert_still_serving(gateway: RunningGateway) -> None:
    gateway.engine.answers.clear()
    answer = await gateway.openai.chat.completions.create(model=MODEL, messages=HI)
    assert answer.choices[0].message.content == "Hello world"


async def streamed_text(gateway: RunningGateway) -> str:
    response = await gateway.post({"model": MODEL, "messages": HI, "stream": True})
    assert response.status == 200
    return await response.text()


@pytest.mark.parametrize("fault", ["cut", "garbage", "no_finish", "error_event"])
async def test_broken_stream_ends_with_an_error_and_no_done(gateway: RunningGateway, fault: Any) -> None:
    gateway.engine.will_say("partial", fault=fault)
    text = await streamed_text(gateway)
    *_, last = [event for event in text.split("\n\n") if event]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "[DONE]" not in text
    assert "partial" in text
    assert '"finish_reason":"stop"' not in text
    await assert_still_serving(gateway)


@pytest.mark.parametrize("fault", ["cut", "garbage", "no_finish", "error_event"])
async def test_openai_client_raises_on_a_broken_stream(gateway: RunningGateway, fault: Any) -> None:
    gateway.engine.will_say("partial", fault=fault)
    stream = await gateway.openai.chat.completions.create(model=MODEL, messages=HI, stream=True)
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass
    await assert_still_serving(gateway)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("cut", 502, "engine_stream_broken"),
        ("garbage", 502, "engine_protocol_error"),
        ("no_finish", 502, "engine_protocol_error"),
        ("error_event", 500, "engine_failure"),
    ],
)
async def test_broken_whole_answer_is_an_error(
    gateway: RunningGateway, fault: Any, status: int, code: str
) -> None:
    gateway.engine.will_say("partial", fault=fault)
    response = await gateway.post({"model": MODEL, "messages": HI})
    assert response.status == status
    error = (await response.json())["error"]
    assert error["code"] == code
    assert "stand-in failure" not in error["message"]
    await assert_still_serving(gateway)


BAD_BIAS = "logit_bias must has keys in [0, 9], got 10."
ADVICE = "The keys of `logit_bias` must be token ids from 0 to 9."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["http_error", "error_event"])
async def test_engine_400_says_what_the_caller_can_change(
    gateway: RunningGateway, stream: bool, fault: Any
) -> None:
    gateway.engine.will_say(fault=fault, status=400, message=BAD_BIAS)
    response = await gateway.post({"model": MODEL, "messages": HI, "stream": stream})
    assert response.status == 400
    error = (await response.json())["error"]
    assert (error["type"], error["message"]) == ("invalid_request_error", ADVICE)
    await assert_still_serving(gateway)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["http_error", "error_event"])
@pytest.mark.parametrize(
    ("status", "answered"), [(400, 400), (422, 400), (429, 503), (503, 503), (404, 500), (500, 500)]
)
async def test_engine_text_reaches_neither_client_nor_log(
    gateway: RunningGateway, stream: bool, fault: Any, status: int, answered: int, caplog: Any
) -> None:
    gateway.engine.will_say(fault=fault, status=status, message="SECRET internal /path/x.py line 3")
    response = await gateway.post({"model": MODEL, "messages": HI, "stream": stream})
    assert response.status == answered
    assert "SECRET" not in await response.text()
    assert "SECRET" not in caplog.text
    assert gateway.engine.requests[0]["rid"] in caplog.text
    assert ("retry-after" in response.headers) == (answered == 503)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "meta",
    [{"id": "chatcmpl-other"}, {"prompt_tokens": -999_998}, {"prompt_tokens": 10**9}, {"cached_tokens": -1}],
    ids=["another request's", "negative usage", "absurd usage", "negative cache"],
)
async def test_answer_to_another_request_is_a_502(
    gateway: RunningGateway, stream: bool, meta: dict[str, Any]
) -> None:
    gateway.engine.will_say("another's", " text", meta=meta)
    response = await gateway.post({"model": MODEL, "messages": HI, "stream": stream})
    assert response.status == 502
    text = await response.text()
    assert json.loads(text)["error"]["code"] == "engine_protocol_error"
    assert "another's" not in text
    await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
    assert gateway.engine.aborted == [gateway.engine.requests[0]["rid"]]
    await assert_still_serving(gateway)


async def test_negative_usage_is_not_credited() -> None:
    async with running_gateway(tokens_per_minute=1000) as gateway:
        for _ in range(3):
            gateway.engine.will_say("a", meta={"prompt_tokens": -999_998})
            await gateway.post({"model": MODEL, "messages": HI, "max_tokens": 5})
        response = await gateway.post({"model": MODEL, "messages": HI, "max_tokens": 5})
        assert int(response.headers["x-ratelimit-remaining-tokens"]) < 1000


@pytest.mark.parametrize("stream", [False, True])
async def test_engine_that_writes_beyond_max_tokens_is_stopped(gateway: RunningGateway, stream: bool) -> None:
    gateway.engine.will_say(*"abcdefgh", fault="stall")
    response = await gateway.post({"model": MODEL, "messages": HI, "max_tokens": 3, "stream": stream})
    text = await response.text()
    assert "engine_protocol_error" in text
    assert "[DONE]" not in text
    await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
    await assert_still_serving(gateway)


@pytest.mark.parametrize(
    ("finish", "status"),
    [
        ({"type": "abort", "message": "The request queue is full.", "status_code": 503}, 503),
        ({"type": "abort", "message": "bad input", "status_code": 400}, 400),
        ({"type": "abort", "message": "Aborted", "status_code": None}, 503),
        ({"type": "abort", "message": "cuda error at /secret/path", "status_code": 500}, 500),
        ({"type": "surprise"}, 502),
    ],
)
async def test_engine_abort_is_an_error(gateway: RunningGateway, finish: dict[str, Any], status: int) -> None:
    gateway.engine.will_say("partial", finish=finish)
    response = await gateway.post({"model": MODEL, "messages": HI})
    assert response.status == status
    assert "/secret/path" not in await response.text()
    await assert_still_serving(gateway)


async def test_engine_500_is_an_error_without_its_message(gateway: RunningGateway) -> None:
    gateway.engine.will_say(fault="http_error", status=500, message="Traceback ... /secret/path")
    response = await gateway.post({"model": MODEL, "messages": HI})
    assert response.status == 500
    assert "/secret/path" not in await response.text()
    await assert_still_serving(gateway)


@pytest.mark.parametrize("stream", [False, True])
async def test_absent_engine_is_a_503_with_retry_after(stream: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with running_gateway(engine_url=f"http://127.0.0.1:{port}") as gateway:
        response = await gateway.post({"model": MODEL, "messages": HI, "stream": stream})
        assert response.status == 503
        assert int(response.headers["retry-after"]) > 0
        assert (await response.json())["error"]["code"] == "engine_unavailable"
        assert (await gateway.get("/readyz")).status == 503
        assert (await gateway.get("/healthz")).status == 200


@pytest.mark.parametrize("fault", ["silent", "stall"])
async def test_silent_engine_is_a_504_and_gets_an_abort(fault: Any) -> None:
    async with running_gateway(engine_stall_timeout_s=0.5) as gateway:
        gateway.engine.will_say("partial", fault=fault)
        response = await gateway.post({"model": MODEL, "messages": HI})
        assert response.status == 504
        await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
        assert gateway.engine.aborted == [gateway.engine.requests[0]["rid"]]
        await assert_still_serving(gateway)


@pytest.mark.parametrize("fault", ["silent", "stall"])
@pytest.mark.parametrize("stream", [False, True])
async def test_disconnect_aborts_the_request_in_the_engine(
    gateway: RunningGateway, stream: bool, fault: Any
) -> None:
    gateway.engine.will_say("partial", fault=fault)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {API_KEY}"}) as leaving:
        request = asyncio.ensure_future(
            leaving.post(
                f"{gateway.url}/v1/chat/completions", json={"model": MODEL, "messages": HI, "stream": stream}
            )
        )
        await asyncio.wait_for(gateway.engine.generating.wait(), 60)
        if stream:
            response = await request
            await response.content.readany()
            response.close()
        else:
            request.cancel()
    await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
    assert gateway.engine.aborted == [gateway.engine.requests[0]["rid"]]
    await assert_still_serving(gateway)


async def test_failed_choice_aborts_the_others(gateway: RunningGateway) -> None:
    gateway.engine.will_say("a", fault="stall")
    gateway.engine.will_say("b", fault="error_event")
    response = await gateway.post({"model": MODEL, "messages": HI, "n": 2})
    assert response.status == 500
    await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
    stalled = gateway.engine.requests[0]["rid"]
    assert stalled in gateway.engine.aborted
    await assert_still_serving(gateway)


async def test_finished_answer_is_not_aborted(gateway: RunningGateway) -> None:
    await gateway.post({"model": MODEL, "messages": HI})
    await streamed_text(gateway)
    assert gateway.engine.aborted == []
