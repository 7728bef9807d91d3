"""Metrics and log lines: their values, and the secrets they never hold."""

import asyncio
import json
import logging
import math
import platform
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

import serval
from serval.api.http import cancel_and_wait
from serval.engine import place, placement, readiness
from serval.scheduling import working_set
from serval.settings import Settings
from serval.telemetry import conversation_metrics, place_metrics
from serval.telemetry.logs import JsonFormatter, RequestEntry
from serval.telemetry.loop_lag import watching_loop
from serval.telemetry.metrics import Metrics
from serval.telemetry.record import RequestRecord
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.request_log import request_lines

DEFAULTS = Settings()
CANARY = "canary-in-the-prompt"
HI: list[Any] = [{"role": "user", "content": CANARY}]
CALL = "<longcat_tool_call>f\n</longcat_tool_call>\n"
TOOL = {"type": "function", "function": {"name": "f"}}


async def samples(gateway: RunningGateway) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and label values."""
    text = await (await gateway.get("/metrics", key=None)).text()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_requests_tokens_and_tool_calls() -> None:
    async with running_gateway() as gateway:
        gateway.engine.will_say("a", "b", cached_tokens=3)
        gateway.engine.will_say(CALL, cached_tokens=4)
        gateway.engine.will_say(CALL[:25], finish={"type": "length"})
        for body in ({}, {"tools": [TOOL], "stream": True}, {"tools": [TOOL]}, {"n": 0}):
            await gateway.post({"model": MODEL, "messages": HI, **body})
        await gateway.get("/nothing")
        got = await samples(gateway)
        prompt_tokens = sum(len(request["input_ids"]) for request in gateway.engine.requests)
    assert got["serval_requests_total", "/v1/chat/completions", "200"] == 3
    assert got["serval_requests_total", "/v1/chat/completions", "400"] == 1
    assert got["serval_requests_total", "other", "404"] == 1
    assert got["serval_tokens_total", "prompt"] == prompt_tokens
    assert got["serval_tokens_total", "completion"] == 4
    assert got["serval_tokens_total", "cached"] == 7
    assert got["serval_tool_calls_total", "complete"] == 1
    assert got["serval_tool_calls_total", "truncated"] == 1
    assert got["serval_time_to_first_token_seconds_count",] == 3
    assert got["serval_request_duration_seconds_count", "/v1/chat/completions"] == 4
    assert got["serval_requests_in_flight",] == 1  # this request itself
    assert got["serval_engine_up",] == 1
    assert got["serval_inter_token_latency_seconds_count",] == 0  # no answer was streamed in several events
    assert got["serval_gateway_overhead_seconds_count", "/v1/chat/completions"] == 4
    assert got["serval_rejections_total", "tokens"] == 0
    assert got["serval_errors_total", "unknown_url"] == 1
    assert got["serval_errors_total", "invalid_value"] == 1


@pytest.mark.parametrize(
    ("metric", "longest_s"),
    [
        # An answer as long as LongCat-Flash-Lite's context, at ten tokens a second.
        ("serval_request_duration_seconds", 131_072 / 10),
        ("serval_time_to_first_token_seconds", DEFAULTS.queue_timeout_s + DEFAULTS.engine_stall_timeout_s),
        ("serval_queue_wait_seconds", DEFAULTS.queue_timeout_s),
        ("serval_inter_token_latency_seconds", DEFAULTS.engine_stall_timeout_s),
    ],
)
def test_histograms_tell_times_apart_as_long_as_settings_allow(metric: str, longest_s: float) -> None:
    metrics = Metrics()
    metrics.request_over(RequestRecord(request_id="r", method="POST", route="/v1/chat/completions"))
    families = text_string_to_metric_families(metrics.exposition(engine_up=True).decode())
    samples = [sample for family in families if family.name == metric for sample in family.samples]
    bounds = {float(sample.labels["le"]) for sample in samples if "le" in sample.labels}
    assert max(bounds - {math.inf}) >= longest_s


async def test_metrics_count_gaps_between_streamed_tokens() -> None:
    hold = asyncio.Event()
    async with running_gateway() as gateway:
        gateway.engine.will_say("a", "b", hold=hold)
        body = {"model": MODEL, "messages": HI, "stream": True}
        headers = {"authorization": f"Bearer {API_KEY}"}
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.http.post(url, json=body, headers=headers) as response:
            received = b""
            # From here on the gap is at least as long, however busy the machine is.
            while b'"content":"a"' not in received:
                received += await response.content.readany()
            await asyncio.sleep(0.06)
            hold.set()
            await response.read()
        got = await samples(gateway)
    assert got["serval_inter_token_latency_seconds_bucket", "0.05"] == 0
    assert got["serval_inter_token_latency_seconds_bucket", "+Inf"] == 1
    assert got["serval_inter_token_latency_seconds_count",] == 1
    # The loop's timer may end up to a millisecond early.
    assert got["serval_inter_token_latency_seconds_sum",] > 0.055


@pytest.mark.parametrize("stream", [False, True])
async def test_overhead_excludes_time_of_engine_and_client(stream: bool) -> None:
    async with running_gateway() as gateway:
        gateway.engine.will_say("a", "b", delay_s=1.0)
        gateway.engine.will_say("a", fault="stall")
        body = json.dumps({"model": MODEL, "messages": HI, "stream": stream}).encode()

        async def slowly_sent() -> AsyncIterator[bytes]:
            yield body[:20]
            await asyncio.sleep(1.0)
            yield body[20:]

        headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.http.post(url, data=slowly_sent(), headers=headers) as response:
            await response.read()
        leaving = asyncio.create_task(gateway.post({"model": MODEL, "messages": HI}))
        while len(gateway.engine.requests) < 2:  # noqa: ASYNC110  # the stand-in has no event for it
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
        await cancel_and_wait(leaving)
        got = await samples(gateway)
    route = "/v1/chat/completions"
    assert got["serval_gateway_overhead_seconds_count", route] == 2
    # Each of the three waits of 1 s is excluded; without one, 2 s would be. A slow machine adds to both sums.
    duration = got["serval_request_duration_seconds_sum", route]
    assert duration - got["serval_gateway_overhead_seconds_sum", route] > 2.5


async def test_loop_lag_shows_a_busy_event_loop() -> None:
    late: list[float] = []
    with watching_loop(late.append):
        await asyncio.sleep(0.3)
        time.sleep(0.5)  # noqa: ASYNC251  # this is what is to be seen
        await asyncio.sleep(0.3)
    assert max(late) > 0.2


async def test_metrics_count_tasks_of_the_event_loop() -> None:
    async with running_gateway() as gateway:

        async def until(holds: Callable[[float], bool]) -> None:
            # Counted four times a second.
            async with asyncio.timeout(60):
                while not holds((await samples(gateway))["serval_event_loop_tasks",]):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)

        await until(lambda tasks: 0 < tasks < 50)
        more = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(100)]
        await until(lambda tasks: tasks > 100)
        await cancel_and_wait(*more)
        await until(lambda tasks: tasks < 50)


async def test_metrics_count_requests_refused_unread() -> None:
    async with running_gateway() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        writer.write(b"not HTTP\r\n\r\n")
        await reader.read()
        writer.close()
        assert (await samples(gateway))["serval_refused_requests_total", "malformed_request"] == 1


async def test_engine_up_follows_the_engine() -> None:
    async with running_gateway() as gateway:
        gateway.engine.ready = False
        assert (await samples(gateway))["serval_engine_up",] == 0


async def test_metrics_labels_come_from_closed_sets() -> None:
    async with running_gateway() as gateway:
        for path in ("/a", "/b", "/v1/models/x", "/v1/models/y"):
            await gateway.get(path)
        routes = {name[1] for name in await samples(gateway) if name[0] == "serval_requests_total"}
    assert routes == {"other", "/v1/models/{model_id}"}


def test_metrics_of_places_know_all_states_and_reasons() -> None:
    assert place_metrics.STATES == place.STATES
    assert place_metrics.REASONS == placement.REASONS
    assert place_metrics.STOP_REASONS == readiness.STOP_REASONS


async def test_metrics_count_how_an_engine_stops() -> None:
    """One that ends without a word is lost; one that says first that it takes no more was told to stop."""
    async with running_gateway() as gateway:
        assert await stops(gateway) == (0, 0)
        gateway.engine.ready = False
        await gateway.engine.load_was_asked()
        assert await stops(gateway) == (1, 0)
        gateway.engine.ready = True
        await gateway.engine.load_was_asked()
        await gateway.engine.end()
        assert (await samples(gateway))["serval_engine_up",] == 0
        assert await stops(gateway) == (1, 1)


async def stops(gateway: RunningGateway) -> tuple[float, float]:
    """Times that the engine was told to stop, and that it was lost."""
    page = await samples(gateway)
    return page["serval_engine_stops_total", "told"], page["serval_engine_stops_total", "lost"]


async def test_metrics_name_the_build_and_its_start() -> None:
    async with running_gateway() as gateway:
        got = await samples(gateway)
    (name,) = [name for name in got if name[0] == "serval_build_info"]
    assert {serval.__version__, platform.python_version()} <= set(name[1:])
    assert got["serval_start_time_seconds",] <= got["serval_settings_read_time_seconds",]


def test_metrics_of_conversations_know_all_reasons_to_leave() -> None:
    assert conversation_metrics.LEAVE_REASONS == working_set.LEAVE_REASONS


async def test_metrics_count_the_usage_of_a_disconnected_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serval.requests")
    async with running_gateway() as gateway:
        gateway.engine.will_say("a", "b", fault="stall")
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {API_KEY}"}) as leaving:
            body = {"model": MODEL, "messages": HI, "stream": True}
            response = await leaving.post(f"{gateway.url}/v1/chat/completions", json=body)
            await response.content.readany()
            response.close()
        await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
        got = await samples(gateway)
        assert got["serval_requests_total", "/v1/chat/completions", "499"] == 1
        assert got["serval_tokens_total", "completion"] == 2
        assert got["serval_tokens_total", "prompt"] == len(gateway.engine.requests[0]["input_ids"])
    (line,) = [line for line in request_lines(caplog) if "chat" in line["route"]]
    assert line["client_gone"] is True


async def test_logs_errors_and_metrics_hold_no_prompt_answer_or_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_gateway() as gateway:
        gateway.engine.will_say("canary-answer")
        gateway.engine.will_say("canary-answer", fault="garbage")
        for body in ({}, {"stream": True}, {"temperature": CANARY}, {"tools": [{"type": CANARY}]}):
            response = await gateway.post({"model": MODEL, "messages": HI, **body})
            assert API_KEY not in await response.text()
        errors = [
            await gateway.post({"model": MODEL, "messages": HI, "n": 0}),
            await gateway.post({"model": API_KEY, "messages": HI}, headers={"authorization": CANARY}),
            await gateway.post(json.dumps({"messages": HI}).encode()[:-1]),
            await gateway.get("/v1/models", key=API_KEY + "x"),
        ]
        gateway.engine.will_say("canary-answer", fault="error_event", message=f"{CANARY} {API_KEY}")
        errors.append(await gateway.post({"model": MODEL, "messages": HI}))
        assert {response.status for response in errors} == {400, 401, 500}
        texts = [await response.text() for response in errors]
        metrics = await (await gateway.get("/metrics")).text()
    formatter = JsonFormatter()
    lines = [formatter.format(record) for record in caplog.records if record.name.startswith("serval")]
    assert len(lines) > 5
    for text in (metrics, *texts, *lines):
        for secret in (CANARY, "canary-answer", API_KEY):
            assert secret not in text


async def test_log_has_one_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serval.requests")
    async with running_gateway() as gateway:
        response = await gateway.post(
            {"model": MODEL, "messages": HI}, headers={"x-client-request-id": "mine-1"}
        )
        await gateway.post({"model": MODEL, "messages": HI}, headers={"x-client-request-id": "two words"})
    line, second = request_lines(caplog)
    assert line["event"] == "request"
    assert line["request_id"] == response.headers["x-request-id"]
    assert line["client_request_id"] == "mine-1"
    assert (line["route"], line["status"], line["finish_reason"]) == ("/v1/chat/completions", 200, "stop")
    assert line["completion_tokens"] == 2
    assert 0 < line["first_token_ms"] <= line["duration_ms"]
    assert 0 < line["gateway_ms"] <= line["duration_ms"]
    assert line["engine_request_id"] == (await response.json())["id"]
    assert second["client_request_id"] is None


def test_log_line_has_the_times_at_the_end_of_the_request() -> None:
    entry = RequestEntry(RequestRecord(request_id="r", method="GET", route="/"))
    first = JsonFormatter().format(entry)
    time.sleep(0.002)
    assert JsonFormatter().format(entry) == first


def test_log_line_cannot_be_forged() -> None:
    record = logging.LogRecord("serval", logging.INFO, "", 0, 'a\n{"event": "b"}\x1b[31m', None, None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "\x1b" not in line
