"""Errors that are sent before a request's body was read, seen through a real nginx."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from serval_testkit.gateway import API_KEY, running_gateway
from serval_testkit.nginx import nginx_before

LIMIT = 1 << 20
# More than the buffers of nginx and of the sockets in between.
LARGE = b" " * (8 * LIMIT)
JSON = {"content-type": "application/json"}
KEY = {"authorization": f"Bearer {API_KEY}", **JSON}
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Early:
    """A request that is answered before its body is read."""

    status: int
    code: str
    headers: dict[str, str]
    path: str = CHAT
    method: str = "POST"


EARLY = {
    "too large": Early(413, "request_too_large", KEY),
    "no key": Early(401, "invalid_api_key", JSON),
    "no such path": Early(404, "unknown_url", KEY, path="/v1/nothing"),
    "no such method": Early(405, "method_not_allowed", KEY, method="PUT"),
    "another content type": Early(400, "invalid_content_type", {**KEY, "content-type": "text/plain"}),
    "another coding": Early(415, "unsupported_content_encoding", {**KEY, "content-encoding": "br"}),
}


async def in_pieces() -> AsyncIterator[bytes]:
    """A body without a length, so that it is sent in chunks."""
    for start in range(0, len(LARGE), LIMIT // 4):
        yield LARGE[start : start + LIMIT // 4]


@contextlib.asynccontextmanager
async def through_nginx(*, buffers_requests: bool, **settings: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        running_gateway(max_body_bytes=LIMIT, **settings) as gateway,
        nginx_before(gateway.url, buffers_requests=buffers_requests) as socket,
        # After an early answer nginx closes a connection that it has promised to keep. aiohttp might send the
        # next request on it before it sees the end.
        aiohttp.UnixConnector(str(socket), force_close=True) as connector,
        aiohttp.ClientSession("http://gateway", connector=connector) as client,
    ):
        yield client


BUFFERING = pytest.mark.parametrize("buffers_requests", [True, False], ids=["buffered", "unbuffered"])


@BUFFERING
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("case", EARLY)
async def test_early_error_is_not_lost_behind_nginx(case: str, chunked: bool, buffers_requests: bool) -> None:
    early = EARLY[case]
    async with through_nginx(buffers_requests=buffers_requests) as client:
        # The fault that this stands for is a race, which was lost ten times of ten.
        for _ in range(5):
            async with client.request(
                early.method, early.path, data=in_pieces() if chunked else LARGE, headers=early.headers
            ) as response:
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (early.status, early.code)
        async with client.get("/healthz") as response:
            assert response.status == 200


@BUFFERING
async def test_limit_of_a_key_is_not_lost_behind_nginx(buffers_requests: bool) -> None:
    async with through_nginx(buffers_requests=buffers_requests, requests_per_minute=1) as client:
        body = (
            b'{"model": "longcat-demo", "messages": [{"role": "user", "content": "Hi"}]%b}' % LARGE[:500_000]
        )
        statuses = []
        for _ in range(4):
            async with client.post(CHAT, data=body, headers=KEY) as response:
                statuses.append(response.status)
                await response.read()
    assert statuses == [200, 429, 429, 429]


async def test_client_without_a_proxy_reads_the_413_of_a_body_that_it_sends_to_its_end() -> None:
    async with running_gateway(max_body_bytes=LIMIT) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(LARGE)}\r\n\r\n".encode())
        for start in range(0, len(LARGE), LIMIT):
            writer.write(LARGE[start : start + LIMIT])
            await writer.drain()
            await asyncio.sleep(0.01)
        answer = await asyncio.wait_for(reader.read(), 30)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        writer.close()
