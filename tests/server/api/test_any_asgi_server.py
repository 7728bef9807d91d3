"""The endpoints on servers and test transports that are not ours: plain ASGI is all they need."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp, Message

from serval.app import create_apps
from serval.engine.client import connect_engine
from serval.live_settings import read_live_settings
from serval.process.gateway import load_backend
from serval.process.preparation import prepare
from serval.settings import Settings
from serval_testkit.gateway import API_KEY, DEMO_CHECKPOINT, MODEL
from serval_testkit.request_log import request_lines
from serval_testkit.stand_in_engine import StandInEngine

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION: dict[str, Any] = {"model": MODEL, "prompt": "Once"}
HEADERS = {"authorization": f"Bearer {API_KEY}"}
CHAT_PATH = "/v1/chat/completions"
SECONDS = 30


@asynccontextmanager
async def gateway_app(**settings: Any) -> AsyncIterator[tuple[ASGIApp, StandInEngine]]:
    """The gateway's application and the engine behind it, without a server."""
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    async with engine.running():
        values: dict[str, Any] = {"engine_url": engine.url, "api_key": API_KEY, "served_model_name": MODEL}
        configured = Settings(**(values | settings))
        async with connect_engine(configured) as client:
            prepared = prepare(configured, read_live_settings(configured))
            backend = load_backend(configured, client, await client.info())
            apps = create_apps(configured, backend, prepared)
            yield apps.api, engine


@asynccontextmanager
async def asgi_transport(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls `app` in its own task. It has no lifespan, and no `serval.*` scope keys."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=HEADERS) as client:
        yield client


@asynccontextmanager
async def stock_uvicorn(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of uvicorn as it comes, with its own httptools protocol."""
    config = uvicorn.Config(
        app, http="httptools", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        # `serve` would take over the process's signal handlers.
        serving = asyncio.create_task(server._serve([listener]))
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=SECONDS) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


Serve = Callable[[ASGIApp], AbstractAsyncContextManager[httpx.AsyncClient]]
SERVERS = pytest.mark.parametrize("serve", [asgi_transport, stock_uvicorn])


class PlainTransport:
    """ASGI's `receive` and `send` for one request, written out. `fails`: `send` reports the disconnect."""

    def __init__(self, body: dict[str, Any], *, fails: bool = False) -> None:
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "path": CHAT_PATH,
            "raw_path": CHAT_PATH.encode(),
            "query_string": b"",
            "headers": [
                (b"authorization", HEADERS["authorization"].encode()),
                (b"content-type", b"application/json"),
            ],
        }
        self.sent: list[Message] = []
        self.first_body = asyncio.Event()
        self.disconnected = asyncio.Event()
        self._fails = fails
        self._requests: list[Message] = [
            {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        ]

    async def receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        if self._fails:
            await asyncio.sleep(3600)
        await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._fails and self.disconnected.is_set():
            raise OSError("the client has gone")
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.first_body.set()


@SERVERS
@pytest.mark.parametrize(("path", "body"), [(CHAT_PATH, CHAT), ("/v1/completions", COMPLETION)])
async def test_endpoints_answer_whole_on_any_server(serve: Serve, path: str, body: dict[str, Any]) -> None:
    async with gateway_app() as (app, engine), serve(app) as client:
        response = await client.post(path, json=body)
        assert response.status_code == 200
        assert response.json()["usage"]["completion_tokens"] == 2
        assert engine.aborted == []


@SERVERS
@pytest.mark.parametrize(("path", "body"), [(CHAT_PATH, CHAT), ("/v1/completions", COMPLETION)])
async def test_endpoints_stream_on_any_server(serve: Serve, path: str, body: dict[str, Any]) -> None:
    async with gateway_app() as (app, engine), serve(app) as client:
        engine.will_say("a", "b", "c", delay_s=0.01)
        response = await client.post(path, json={**body, "stream": True})
        assert response.status_code == 200
        events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert events[-1] == "[DONE]"
        text = "".join(
            choice.get("text") or choice.get("delta", {}).get("content") or ""
            for event in events[:-1]
            for choice in json.loads(event)["choices"]
        )
        assert text == "abc"
        assert engine.aborted == []


async def test_frames_reach_the_client_of_a_stock_server_as_they_come() -> None:
    async with gateway_app() as (app, engine), stock_uvicorn(app) as client:
        engine.will_say("first", "second", fault="stall")
        async with client.stream("POST", CHAT_PATH, json={**CHAT, "stream": True}) as response:
            received = ""
            async for piece in response.aiter_text():
                received += piece
                if "second" in received:
                    break
        assert "first" in received


@pytest.mark.parametrize("stream", [False, True])
async def test_disconnect_from_a_stock_server_frees_the_engine(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "serval.requests")
    async with gateway_app() as (app, engine), stock_uvicorn(app) as client:
        engine.will_say("a", "b", fault="stall")
        asking = asyncio.create_task(client.post(CHAT_PATH, json={**CHAT, "stream": stream}))
        await asyncio.wait_for(engine.generating.wait(), SECONDS)
        asking.cancel()
        await asyncio.wait_for(engine.abort_seen.wait(), SECONDS)
        assert engine.aborted == [engine.requests[0]["rid"]]
    (line,) = request_lines(caplog)
    assert line["client_gone"] is True


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_call_of_the_test_transport_frees_the_engine(stream: bool) -> None:
    async with gateway_app() as (app, engine), asgi_transport(app) as client:
        engine.will_say("a", "b", fault="stall")
        asking = asyncio.create_task(client.post(CHAT_PATH, json={**CHAT, "stream": stream}))
        await asyncio.wait_for(engine.generating.wait(), SECONDS)
        asking.cancel()
        await asyncio.wait_for(engine.abort_seen.wait(), SECONDS)


@pytest.mark.parametrize("stream", [False, True])
async def test_disconnect_reported_by_receive_frees_the_engine(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "serval.requests")
    async with gateway_app() as (app, engine):
        engine.will_say("a", "b", fault="stall")
        transport = PlainTransport({**CHAT, "stream": stream})
        answering = asyncio.ensure_future(app(transport.scope, transport.receive, transport.send))
        await asyncio.wait_for(engine.generating.wait(), SECONDS)
        transport.disconnected.set()
        await asyncio.wait_for(answering, SECONDS)
        await asyncio.wait_for(engine.abort_seen.wait(), SECONDS)
    (line,) = request_lines(caplog)
    assert line["client_gone"] is True


async def test_disconnect_reported_by_send_frees_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "serval.requests")
    async with gateway_app(first_byte_s=0.01, ping_interval_s=0.01) as (app, engine):
        engine.will_say(*"abcdefgh", delay_s=0.05)
        transport = PlainTransport({**CHAT, "stream": True}, fails=True)
        answering = asyncio.ensure_future(app(transport.scope, transport.receive, transport.send))
        await asyncio.wait_for(transport.first_body.wait(), SECONDS)
        transport.disconnected.set()
        await asyncio.wait_for(answering, SECONDS)
        await asyncio.wait_for(engine.abort_seen.wait(), SECONDS)
    (line,) = request_lines(caplog)
    assert line["client_gone"] is True
    assert line["error_code"] is None


async def test_request_leaves_no_task_behind() -> None:
    async with gateway_app() as (app, _):
        before = asyncio.all_tasks()
        for stream in (False, True):
            transport = PlainTransport({**CHAT, "stream": stream})
            await app(transport.scope, transport.receive, transport.send)
            assert transport.sent[0]["status"] == 200
        await asyncio.sleep(0)
        # The engine's own connections come and go; the task that waits for a disconnect must be gone.
        left = [repr(task.get_coro()) for task in asyncio.all_tasks() - before]
        assert not [coroutine for coroutine in left if "_call_on_disconnect" in coroutine]
