"""Traces, received by a stand-in for an OTLP/HTTP collector."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serval.settings import load_settings
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

CANARY = "canary-in-the-prompt"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": CANARY}]}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@asynccontextmanager
async def collector(received: list[bytes]) -> AsyncIterator[str]:
    """Run a collector that records spans; yields its base URL."""

    async def take(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.add_routes([web.post("/v1/traces", take)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def spans(received: list[bytes]) -> list[Any]:
    return [
        span
        for body in received
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: Any) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in span.attributes}


async def ask(gateway: RunningGateway) -> None:
    """Make a whole and a streamed request, an error of client and engine each, and untraced requests."""
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    await gateway.post(CHAT, headers=headers)
    await gateway.post({**CHAT, "stream": True})
    await gateway.post({**CHAT, "n": 0})
    gateway.engine.will_say("canary-answer", fault="error_event", message=f"canary {API_KEY}")
    await gateway.post({"model": MODEL, "prompt": CANARY}, path="/v1/completions")
    await gateway.get("/v1/models")


async def test_span_follows_the_conventions_for_generative_ai() -> None:
    received: list[bytes] = []
    async with collector(received) as url, running_gateway(otlp_endpoint=url) as gateway:
        await ask(gateway)
        answered = gateway.engine.requests[0]
    got = spans(received)
    assert [span.name for span in got] == [
        f"chat {MODEL}",
        f"chat {MODEL}",
        "chat",
        f"text_completion {MODEL}",
    ]
    said = attributes(got[0])
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "serval"
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == MODEL
    assert said["gen_ai.response.id"] == answered["rid"]
    assert said["gen_ai.usage.input_tokens"] == len(answered["input_ids"])
    assert said["gen_ai.usage.output_tokens"] == 2
    assert said["http.response.status_code"] == 200
    assert "error.type" not in said
    assert [event.name for event in got[0].events] == ["gen_ai.first_token"]
    assert got[0].start_time_unix_nano < got[0].events[0].time_unix_nano < got[0].end_time_unix_nano
    assert attributes(got[1])["serval.stream"] is True
    assert attributes(got[2])["error.type"] == "invalid_value"
    assert got[2].status.code == 0  # unset: the client's mistake
    assert attributes(got[3])["error.type"] == "engine_failure"
    assert got[3].status.code == 2


async def test_trace_of_the_client_continues_to_the_engine() -> None:
    received: list[bytes] = []
    async with collector(received) as url, running_gateway(otlp_endpoint=url) as gateway:
        await ask(gateway)
        sent = [request["external_trace_header"]["traceparent"] for request in gateway.engine.requests]
    first, second, *_ = spans(received)
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, SPAN)
    assert second.parent_span_id == b""
    # Without the flags: one says how the trace's id was generated.
    expected = [f"00-{span.trace_id.hex()}-{span.span_id.hex()}" for span in (first, second)]
    assert [traceparent[:-3] for traceparent in sent[:2]] == expected


async def test_spans_hold_no_prompt_answer_or_key() -> None:
    received: list[bytes] = []
    async with collector(received) as url, running_gateway(otlp_endpoint=url) as gateway:
        await ask(gateway)
        await gateway.post({**CHAT, "model": CANARY})
    body = b"".join(received)
    assert len(spans(received)) == 5
    assert b"canary" not in body
    assert API_KEY.encode() not in body


async def test_tracing_survives_an_absent_collector(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    async with running_gateway(otlp_endpoint="http://127.0.0.1:1") as gateway:
        assert (await gateway.post(CHAT)).status == 200


async def test_engine_gets_no_trace_without_an_endpoint() -> None:
    async with running_gateway() as gateway:
        await gateway.post(CHAT, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        assert "external_trace_header" not in gateway.engine.requests[0]


def test_endpoint_falls_back_to_the_standard_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://common:4318")
    assert load_settings().otlp_endpoint == "http://common:4318"
    monkeypatch.setenv("SERVAL_OTLP_ENDPOINT", "http://ours:4318")
    assert load_settings().otlp_endpoint == "http://ours:4318"
