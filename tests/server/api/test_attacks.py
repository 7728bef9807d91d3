"""Hostile requests and engine responses are refused, and the server goes on serving."""

import asyncio
import json
import socket
from typing import Any

import pytest

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.request_log import request_lines

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
BODY = json.dumps(CHAT).encode()
HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n".encode()


async def raw_exchange(gateway: RunningGateway, request: bytes) -> bytes:
    """Return all bytes that the server sends for `request` before it closes the connection."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(120):
            return await reader.read()
    finally:
        writer.close()


JSON_BOMBS: dict[str, bytes] = {
    "nested": b'{"model": ' + b"[" * 100_000,
    "a byte order mark": b"\xef\xbb\xbf" + BODY,
    "UTF-16": BODY.decode().encode("utf-16"),
    "a number too large": BODY[:-1] + b', "temperature": 1e400}',
    "a lone surrogate": BODY[:-1] + b', "user": "\\ud800"}',
    "a million keys": b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}",
}


@pytest.mark.parametrize("case", JSON_BOMBS)
async def test_hostile_body_is_a_400(gateway: RunningGateway, case: str) -> None:
    assert (await gateway.post(JSON_BOMBS[case])).status == 400
    assert gateway.engine.requests == []
    assert (await gateway.post(CHAT)).status == 200


async def test_duplicate_field_has_its_last_value_in_the_engine_request(
    gateway: RunningGateway,
) -> None:
    await gateway.post(b'{"max_tokens": 5, "max_tokens": 7, ' + BODY[1:])
    assert gateway.engine.requests[0]["sampling_params"]["max_new_tokens"] == 7


async def test_client_that_does_not_read_is_disconnected_and_its_request_aborted() -> None:
    async with running_gateway(stalled_client_s=0.5) as gateway:
        gateway.engine.will_say(*["a" * 100_000] * 200, fault="stall")
        body = json.dumps({**CHAT, "stream": True}).encode()
        head = HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as reader:
            reader.sendall(head + body)
            await asyncio.wait_for(gateway.engine.abort_seen.wait(), 30)
        assert gateway.engine.aborted == [gateway.engine.requests[0]["rid"]]
        assert (await gateway.post(CHAT)).status == 200


async def test_engine_body_that_is_no_event_stream_is_a_502(gateway: RunningGateway) -> None:
    gateway.engine.will_say(fault="http_error", status=200, message="not an event")
    response = await gateway.post(CHAT)
    assert response.status == 502
    assert (await gateway.post(CHAT)).status == 200


async def test_headers_that_steer_the_engine_are_not_forwarded(gateway: RunningGateway) -> None:
    steering = {"x-override-priority": "9", "x-smg-routing-key": "a", "x-data-parallel-rank": "1"}
    await gateway.post(CHAT, headers=steering)
    names = {name.lower() for name in gateway.engine.headers[0]}
    assert names == {"host", "content-type", "content-length"}


@pytest.mark.parametrize(
    "path",
    ["/generate", "/abort_request", "/flush_cache", "/server_info", "/v1/loads", "/update_weights_from_disk"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_engine_routes_are_not_exposed(gateway: RunningGateway, path: str, method: str) -> None:
    assert (await gateway.get(path, method=method)).status == 404


async def test_response_has_its_processing_time(gateway: RunningGateway) -> None:
    response = await gateway.post(CHAT)
    assert int(response.headers["openai-processing-ms"]) >= 0


async def test_client_request_id_is_logged_only_if_well_formed(gateway: RunningGateway, caplog: Any) -> None:
    caplog.set_level("INFO", "serval.requests")
    # A request whose header holds a control character is refused before it is logged.
    for sent, kept in (("abc-123", ["abc-123"]), ("x" * 200, [None]), ("a b", [None]), ("\x1b[31m", [])):
        caplog.clear()
        await raw_exchange(
            gateway,
            HEAD + b"Connection: close\r\nContent-Type: application/json\r\nX-Client-Request-Id: "
            + sent.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
        )  # fmt: skip
        assert [line["client_request_id"] for line in request_lines(caplog)] == kept
