"""Reverse proxy of compose.yaml: it passes streams unbuffered, and only /v1."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.operator_tools import ROOT, OperatorTools
from serval_testkit.processes import free_port, running

HEADERS = {
    "authorization": f"Bearer {API_KEY}",
    "content-type": "application/json",
    "accept-encoding": "gzip",
}


@asynccontextmanager
async def proxied(tools: OperatorTools, folder: Path) -> AsyncIterator[tuple[RunningGateway, str]]:
    """Gateway, and the address of a proxy in front of it."""
    async with running_gateway() as gateway:
        url = f"http://127.0.0.1:{free_port()}"
        caddyfile = folder / "Caddyfile"
        # Caddy's administration API would listen on a fixed port.
        caddyfile.write_text("{\n\tadmin off\n}\n" + (ROOT / "docker/Caddyfile").read_text())
        environment = {
            "SERVAL_HOSTNAME": url,
            "SERVAL_UPSTREAM": gateway.url.removeprefix("http://"),
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "HOME": str(folder),
        }
        argv = [str(tools.folder / "bin/caddy"), "run", "--config", str(caddyfile), "--adapter", "caddyfile"]
        with running(argv, cwd=folder, environment=environment) as program:
            await asyncio.to_thread(
                program.wait_for_line, lambda line: "serving initial configuration" in line, timeout_s=60
            )
            yield gateway, url


async def test_proxy_passes_a_stream_on_unbuffered(tools: OperatorTools, tmp_path: Path) -> None:
    async with proxied(tools, tmp_path) as (gateway, url), aiohttp.ClientSession(headers=HEADERS) as client:
        gateway.engine.will_say("first", " second", fault="stall")  # the answer never ends
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with client.post(f"{url}/v1/chat/completions", json=body) as response:
            received = b""
            while b" second" not in received:
                received += await asyncio.wait_for(response.content.readany(), 60)
        assert b"first" in received
        assert response.headers["content-type"].startswith("text/event-stream")
        # The disconnect of the client reaches the engine through the proxy.
        await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)


async def test_proxy_publishes_only_the_api(tools: OperatorTools, tmp_path: Path) -> None:
    async with proxied(tools, tmp_path) as (_, url), aiohttp.ClientSession(headers=HEADERS) as client:
        statuses = {}
        for path in ("/v1/models", "/metrics", "/readyz", "/healthz", "/openapi.json", "/"):
            async with client.get(url + path) as response:
                statuses[path] = response.status
    assert statuses.pop("/v1/models") == 200
    assert set(statuses.values()) == {404}
