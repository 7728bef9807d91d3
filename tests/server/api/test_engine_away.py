"""An engine that fails, hangs up or restarts: retries, fast failures, recovery."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.processes import free_port
from serval_testkit.stand_in_engine import StandInEngine

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


@asynccontextmanager
async def hanging_up(engine: StandInEngine, times: int) -> AsyncIterator[str]:
    """Yield the URL of a relay to the engine that hangs up on the first `times` requests."""
    left = times

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/generate" in head and left:
            left -= 1
            writer.close()
            return
        target = urlsplit(engine.url)
        engine_reader, engine_writer = await asyncio.open_connection(target.hostname, target.port)
        engine_writer.write(head)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, engine_writer), copy(engine_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def status(gateway: RunningGateway) -> int:
    return (await gateway.post(CHAT)).status


@asynccontextmanager
async def gateway_behind(times: int, **settings: Any) -> AsyncIterator[RunningGateway]:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    async with (
        hanging_up(engine, times) as url,
        running_gateway(engine=engine, engine_url=url, **settings) as gateway,
    ):
        yield gateway


async def test_unanswered_request_is_sent_again() -> None:
    async with gateway_behind(1) as gateway:
        assert await status(gateway) == 200
        assert len(gateway.engine.requests) == 1


async def test_unanswered_request_is_sent_again_only_once() -> None:
    async with gateway_behind(2) as gateway:
        assert await status(gateway) == 503
        assert gateway.engine.requests == []
        assert await status(gateway) == 200


async def test_answered_request_is_not_sent_again() -> None:
    async with running_gateway() as gateway:
        gateway.engine.will_say("partial", fault="cut")
        assert await status(gateway) == 502
        assert len(gateway.engine.requests) == 1


async def metrics(gateway: RunningGateway) -> str:
    """Return the metrics page."""
    return await (await gateway.get("/metrics", key=None)).text()


async def test_engine_failures_open_the_breaker_until_a_request_succeeds() -> None:
    async with running_gateway(breaker_failures=3, breaker_open_s=2) as gateway:
        for _ in range(3):
            gateway.engine.will_say(fault="http_error", status=500)
            assert await status(gateway) == 500
        response = await gateway.post(CHAT)
        assert response.status == 503
        assert int(response.headers["retry-after"]) > 0
        assert (await response.json())["error"]["code"] == "engine_unavailable"
        assert len(gateway.engine.requests) == 3
        assert "\nserval_engine_breaker_open 1.0\n" in await metrics(gateway)
        async with asyncio.timeout(60):
            while await status(gateway) != 200:
                pass
        assert "\nserval_engine_breaker_open 0.0\n" in await metrics(gateway)
        assert (await gateway.get("/readyz", key=None)).status == 200
        assert await status(gateway) == 200


async def test_error_of_a_request_closes_the_breaker() -> None:
    async with running_gateway(breaker_failures=1, breaker_open_s=0.2) as gateway:
        gateway.engine.will_say(fault="http_error", status=500)
        assert await status(gateway) == 500
        gateway.engine.will_say(fault="error_event", status=400)
        async with asyncio.timeout(60):
            while await status(gateway) == 503:
                pass
        assert "\nserval_engine_breaker_open 0.0\n" in await metrics(gateway)


async def test_gateway_is_not_ready_while_its_engine_fails() -> None:
    async with running_gateway(breaker_failures=1, breaker_open_s=600) as gateway:
        assert (await gateway.get("/readyz", key=None)).status == 200
        gateway.engine.will_say(fault="http_error", status=500)
        await status(gateway)
        assert (await gateway.get("/readyz", key=None)).status == 503


async def test_error_or_overload_is_not_counted_as_an_engine_failure() -> None:
    async with running_gateway(breaker_failures=2, breaker_open_s=600) as gateway:
        for code in (400, 400, 400, 503, 503, 503):
            gateway.engine.will_say(fault="http_error", status=code)
            assert await status(gateway) == code
        assert await status(gateway) == 200


async def test_restarted_engine_is_used_again() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with running_gateway(engine_url=url, breaker_failures=2, breaker_open_s=0.1) as gateway:
        engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
        for _ in range(2):
            async with engine.running(port):
                async with asyncio.timeout(60):
                    while await status(gateway) != 200:
                        pass
                assert (await gateway.get("/readyz", key=None)).status == 200
            assert await status(gateway) == 503
            assert await status(gateway) == 503
            assert (await gateway.get("/readyz", key=None)).status == 503
