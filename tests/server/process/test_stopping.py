"""Stop of a gateway: new requests are refused, running ones end properly."""

import asyncio
import json
import signal
from typing import Any

import aiohttp

from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import GatewayProgram, gateway_program
from serval_testkit.stand_in_engine import StandInEngine

CHAT: dict[str, Any] = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}]}


async def begun_stream(gateway: GatewayProgram) -> aiohttp.ClientResponse:
    response = await gateway.http.post(f"{gateway.url}/v1/chat/completions", json=CHAT | {"stream": True})
    while b"begin" not in await response.content.readany():
        pass
    return response


async def test_stop_is_announced_and_running_requests_end() -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    engine.will_say("begin", " end", delay_s=6.0)
    async with engine.running(), gateway_program(engine.url) as gateway:
        response = await begun_stream(gateway)
        gateway.program.signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            while True:
                async with gateway.http.get(f"{gateway.url}/readyz") as readiness:
                    if readiness.status == 503:
                        break
        async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=CHAT) as refused:
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) > 0
            assert (await refused.json())["error"]["code"] == "shutting_down"
        async with gateway.http.get(f"{gateway.url}/metrics") as metrics:
            assert "serval_engine_up 1.0" in await metrics.text()
        rest = await response.content.read()
        assert b" end" in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        assert await gateway.end() == 0
        assert len(engine.requests) == 1


async def test_stop_ends_requests_after_the_grace_period_with_an_error() -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    engine.will_say("begin", fault="stall")
    async with engine.running(), gateway_program(engine.url, SERVAL_SHUTDOWN_GRACE_S="1") as gateway:
        response = await begun_stream(gateway)
        gateway.program.signal(signal.SIGTERM)
        events = (await response.content.read()).decode().split("\n\n")
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert "[DONE]" not in "".join(events)
        assert await gateway.end() == 0
    assert engine.aborted == [engine.requests[0]["rid"]]
