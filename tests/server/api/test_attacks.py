"""Requests that try to confuse the server, and engines that do: refused, and the server goes on."""

import asyncio
import json
from typing import Any

import pytest

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
BODY = json.dumps(CHAT).encode()
HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n".encode()

SMUGGLING: dict[str, bytes] = {
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "length not a number": HEAD + b"Content-Length: 1x\r\n\r\n{}",
    "NUL in a header": HEAD + b"X-A: a\0b\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "space before the colon": HEAD + b"Content-Length : %d\r\n\r\n" % len(BODY) + BODY,
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


async def raw_exchange(gateway: RunningGateway, request: bytes) -> bytes:
    """All that comes back for `request` until the server closes the connection."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(120):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("case", SMUGGLING)
async def test_a_request_with_two_readings_is_refused_and_the_connection_closed(
    gateway: RunningGateway, case: str
) -> None:
    answer = await raw_exchange(gateway, SMUGGLING[case])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert gateway.engine.requests == []
    assert (await gateway.post(CHAT)).status == 200


async def test_other_origins_are_not_let_in(gateway: RunningGateway) -> None:
    response = await gateway.post(CHAT, headers={"origin": "https://evil.example"})
    assert not [name for name in response.headers if name.lower().startswith("access-control")]


async def test_a_body_that_is_no_event_stream_is_not_passed_off_as_an_answer(gateway: RunningGateway) -> None:
    gateway.engine.will_say(fault="http_error", status=200, message="not an event")
    response = await gateway.post(CHAT)
    assert response.status == 502
    assert (await gateway.post(CHAT)).status == 200


async def test_headers_that_steer_the_engine_are_not_passed_on(gateway: RunningGateway) -> None:
    steering = {"x-override-priority": "9", "x-smg-routing-key": "a", "x-data-parallel-rank": "1"}
    await gateway.post(CHAT, headers=steering)
    names = {name.lower() for name in gateway.engine.headers[0]}
    assert names == {"host", "content-type", "content-length"}


@pytest.mark.parametrize(
    "path",
    ["/generate", "/abort_request", "/flush_cache", "/server_info", "/v1/loads", "/update_weights_from_disk"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_engines_own_routes_are_not_there(gateway: RunningGateway, path: str, method: str) -> None:
    assert (await gateway.get(path, method=method)).status == 404


async def test_answers_say_how_long_they_took(gateway: RunningGateway) -> None:
    response = await gateway.post(CHAT)
    assert int(response.headers["openai-processing-ms"]) >= 0


async def test_a_forged_request_id_is_not_repeated(gateway: RunningGateway, caplog: Any) -> None:
    caplog.set_level("INFO", "serval.requests")
    # What a header may not hold at all never gets as far as the log.
    for sent, kept in (("abc-123", ["abc-123"]), ("x" * 200, [None]), ("a b", [None]), ("\x1b[31m", [])):
        caplog.clear()
        await raw_exchange(
            gateway,
            HEAD + b"Connection: close\r\nContent-Type: application/json\r\nX-Client-Request-Id: "
            + sent.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
        )  # fmt: skip
        lines = [entry.__dict__["fields"] for entry in caplog.records if entry.name == "serval.requests"]
        assert [line["client_request_id"] for line in lines] == kept
