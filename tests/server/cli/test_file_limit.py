"""Out of file descriptors, the gateway refuses requests, and recovers."""

import asyncio
import contextlib
import json
import resource
from urllib.parse import urlsplit

import aiohttp

from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import gateway_program
from serval_testkit.stand_in_engine import StandInEngine

CHAT = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}]}


async def test_file_limit_refuses_requests_with_503_until_descriptors_are_free() -> None:
    async with (
        StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as engine,
        gateway_program(engine.url) as gateway,
        # A connection opened while there are descriptors.
        aiohttp.ClientSession(headers=gateway.http.headers, connector=aiohttp.TCPConnector(limit=1)) as early,
    ):
        pid = gateway.program.process.pid
        assert (await early.get(f"{gateway.url}/healthz")).status == 200
        allowed = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        assert allowed[0] == allowed[1]  # as many as the system allows
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, allowed[1]))
        async with early.post(f"{gateway.url}/v1/chat/completions", json=CHAT) as refused:
            assert refused.status == 503
            assert json.loads(await refused.read())["error"]["code"] == "engine_unavailable"
        place = urlsplit(gateway.url)
        late = [await asyncio.open_connection(place.hostname, place.port) for _ in range(20)]
        for _, writer in late:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, allowed)
        for client in (early, gateway.http):
            async with client.post(f"{gateway.url}/v1/chat/completions", json=CHAT) as answered:
                assert answered.status == 200
        for _, writer in late:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
