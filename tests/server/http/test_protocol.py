"""Limits and deadlines of the HTTP server, over bare sockets."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from serval.api.http import ClientGoneError, send_json, while_connected
from serval.settings import Settings
from serval_testkit.running_app import running_app

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
OK = b"HTTP/1.1 200 "
# More than sockets and the server buffer.
LARGE = bytes(1 << 20)


class App:
    """Reads the body and answers. `/wait` never answers, and `/large` never ends."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, bytes]] = []
        self.refused: list[str] = []
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.seen.append((scope["path"], len(scope["headers"]), body))
        self.asked.set()
        try:
            if scope["path"] == "/wait":
                await while_connected(scope, receive, asyncio.sleep(3600))
            elif scope["path"] == "/large":
                await while_connected(scope, receive, self._large(send))
            else:
                await send_json(send, b"{}")
        except ClientGoneError:
            self.left.set()

    async def _large(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": LARGE, "more_body": True})


@contextlib.asynccontextmanager
async def served(app: App, **settings: Any) -> AsyncIterator[int]:
    """Serve `app`, and yield its port."""
    configured = Settings(**settings)
    async with running_app(app, configured, lifespan="off", refused=app.refused.append) as url:
        yield int(url.rpartition(":")[2])


async def exchange(port: int, *pieces: bytes) -> bytes:
    """Send the pieces, and return everything received until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


def assert_refused(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"\r\nconnection: close" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code


async def assert_serving(port: int) -> None:
    assert (await exchange(port, GET + b"Connection: close\r\n\r\n")).startswith(OK)


MALFORMED: dict[str, bytes] = {
    "two different lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "two equal lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "length, then chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "folded header": GET + b"X-A: a\r\n b\r\n\r\n",
    "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare LF in the headers": GET + b"X-A: a\nTransfer-Encoding: chunked\r\n\r\n",
    "bare CR": GET + b"X-A: a\rb\r\n\r\n",
    "NUL in a value": GET + b"X-A: a\0b\r\n\r\n",
    "NUL in a name": GET + b"X\0A: a\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "chunk size not a number": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk size too large": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
    "chunk without its end": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9, without a version": b"GET /\r\n\r\n\r\n\r\n",
    "an unknown minor version": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "no version number": b"GET / HTTP/x.1\r\nHost: x\r\n\r\n",
    "a version in small letters": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab": b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space at the end of the line": b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
    "a method that is no word": b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "RTSP": b"OPTIONS / RTSP/1.1\r\nHost: x\r\n\r\n",
    "RTSP with a method of HTTP": b"GET / RTSP/1.0\r\nHost: x\r\n\r\n",
    "RTSP with a body": b"POST / RTSP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    "a method of RTSP": b"DESCRIBE / RTSP/1.0\r\nHost: x\r\n\r\n",
    "ICE": b"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nX-A: a\r\n\r\n",
    "no host with a body": b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "two equal hosts": GET + b"Host: x\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_protocol_refuses_ambiguous_requests(case: str) -> None:
    app, request = App(), MALFORMED[case]
    async with served(app) as port:
        assert_refused(await exchange(port, request), 400, "malformed_request")
        in_pieces = await exchange(port, request[:-9], request[-9:-4], request[-4:])
        assert_refused(in_pieces, 400, "malformed_request")
        assert app.seen == []
        assert app.refused == ["malformed_request"] * 2
        await assert_serving(port)


OTHER_VERSIONS_AND_CODINGS: dict[str, tuple[bytes, int, str]] = {
    **{
        version: (f"GET / {version}\r\nHost: x\r\n\r\n".encode(), 505, "unsupported_http_version")
        for version in ("HTTP/0.9", "HTTP/2.0")
    },
    **{
        coding: (
            POST + f"Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n".encode(),
            501,
            "unsupported_transfer_coding",
        )
        for coding in (
            *("gzip, chunked", "gzip,chunked", "deflate, gzip, chunked", "xchunked, chunked", ",chunked"),
            *("identity", "gzip", "xchunked", "gzip\r\nTransfer-Encoding: chunked"),
        )
    },
}


@pytest.mark.parametrize("case", OTHER_VERSIONS_AND_CODINGS)
async def test_protocol_names_what_it_does_not_speak(case: str) -> None:
    app, (request, status, code) = App(), OTHER_VERSIONS_AND_CODINGS[case]
    async with served(app) as port:
        # A whole request after it is not answered either.
        assert_refused(await exchange(port, request + GET + b"\r\n"), status, code)
        assert_refused(await exchange(port, request[:-9], request[-9:]), status, code)
        assert app.seen == []
        await assert_serving(port)


NO_HOSTS = (
    *(
        "a b",
        "a,b c",
        "http://x",
        "x/y",
        "a@b",
        "x:port",
        "x:1:2",
        "x:123456",
        "[::1",
        "::1",
        "[]",
        "x?y",
        "x#y",
    ),
    *("<script>", '"x"', "x\\y", "%zz", "a\xe9b", "{x}", "x|y", "^"),
)
HOSTS = (
    *(
        "x",
        "",
        "X.example",
        "x:8000",
        "x:",
        "127.0.0.1:80",
        "[::1]:8000",
        "[fe80::1]",
        "[v1.a]",
        "a%20b",
        "x,y",
    ),
    *("my_service.default.svc.cluster.local", "xn--bcher-kva.example.", "a-b", "x \t"),
)


async def test_protocol_refuses_a_host_that_is_none() -> None:
    app = App()
    async with served(app) as port:
        for host in NO_HOSTS:
            request = GET.replace(b"Host: x", b"Host: " + host.encode()) + b"\r\n"
            assert_refused(await exchange(port, request), 400, "malformed_request")
            # It is not taken after a valid one either.
            assert (await exchange(port, GET + b"\r\n", request)).startswith(OK)
    assert len(app.seen) == len(NO_HOSTS)


async def test_protocol_takes_every_form_of_host() -> None:
    app = App()
    async with served(app) as port:
        for host in HOSTS:
            request = GET.replace(b"Host: x", b"hOST: " + host.encode()) + b"Connection: close\r\n\r\n"
            assert (await exchange(port, request)).startswith(OK)
            # Cut inside the request line, and after empty lines.
            assert (await exchange(port, request[:6], request[6:12], request[12:])).startswith(OK)
            assert (await exchange(port, b"\r\n\r\n" + request)).startswith(OK)


async def test_protocol_takes_http_1_0_without_a_host_and_ignores_what_it_expects() -> None:
    app = App()
    async with served(app) as port:
        head = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        answer = await exchange(port, head, b"{}")
    assert answer.startswith(OK)
    assert b"100 Continue" not in answer
    assert app.seen == [("/", 2, b"{}")]


TOO_LARGE: dict[str, list[bytes]] = {
    "one header": [GET, b"X-A: " + b"a" * 66_000 + b"\r\n\r\n"],
    "one header without end": [GET, *[b"X-A: " + b"a" * 40_000, b"a" * 40_000]],
    "many large headers": [GET, *[b"X-%d: " % number + b"a" * 8000 + b"\r\n" for number in range(9)]],
    "many headers": [GET, b"".join(b"X-%d: a\r\n" % number for number in range(100)) + b"\r\n"],
    "a long URL": [b"GET /" + b"a" * 66_000 + b" HTTP/1.1\r\n\r\n"],
    "a trailing body": [POST, b"X-A: " + b"a" * 66_000 + b"\r\nContent-Length: 2\r\n\r\n{}"],
}


@pytest.mark.parametrize("case", TOO_LARGE)
async def test_protocol_answers_431_for_headers_over_the_limit(case: str) -> None:
    app = App()
    async with served(app) as port:
        assert_refused(await exchange(port, *TOO_LARGE[case]), 431, "headers_too_large")
        assert app.seen == []
        assert app.refused == ["headers_too_large"]
        await assert_serving(port)


async def test_protocol_reads_headers_up_to_the_limit() -> None:
    app = App()
    fields = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 600) for number in range(98))
    async with served(app) as port:
        answer = await exchange(port, GET, fields, b"Connection: close\r\n\r\n")
    assert answer.startswith(OK)
    assert app.seen == [("/", 100, b"")]


async def test_protocol_does_not_count_a_body_as_head() -> None:
    app, body = App(), b"a" * 300_000
    request = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with served(app) as port:
        assert (await exchange(port, request[:20], request[20:] + body[:70_000], body[70_000:])).startswith(
            OK
        )
    assert app.seen == [("/", 3, body)]


@pytest.mark.parametrize(
    "sent",
    [b"G", GET + b"X-A: ", GET + b"\r\n" + GET],
    ids=["a letter", "half a header", "after a whole request"],
)
async def test_protocol_answers_408_for_an_unfinished_head(sent: bytes) -> None:
    app = App()
    async with served(app, request_head_timeout_s=0.2) as port:
        answer = await exchange(port, sent)
    whole, _, refused = answer.rpartition(b"HTTP/1.1 ")
    assert_refused(b"HTTP/1.1 " + refused, 408, "request_timeout")
    assert whole == b"" or whole.startswith(OK)


async def test_head_deadline_is_not_extended_by_single_headers() -> None:
    app = App()
    async with served(app, request_head_timeout_s=0.4) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        reading = asyncio.create_task(reader.read())
        # Sending a little now and then does not extend the deadline.
        while not reading.done():
            writer.write(b"X-A: a\r\n")
            await asyncio.sleep(0.05)
        assert_refused(await reading, 408, "request_timeout")
        writer.close()


async def test_protocol_answers_408_for_an_unfinished_body_and_disconnects() -> None:
    app = App()
    async with served(app, request_body_timeout_s=0.2) as port:
        answer = await exchange(port, POST + b"Content-Length: 5\r\n\r\n{")
        assert_refused(answer, 408, "request_timeout")
        await asyncio.wait_for(app.left.wait(), 60)
        assert app.seen == []
        await assert_serving(port)


async def test_deadlines_end_with_their_request() -> None:
    app = App()
    async with served(app, request_head_timeout_s=2, request_body_timeout_s=2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            for piece in (POST, b"Content-Length: 2\r\n\r\n", b"{}"):
                writer.write(piece)
                # Each part is well within its deadline, but not all together.
                await asyncio.sleep(0.3)
            assert (await reader.readuntil(b"\r\n\r\n{}")).startswith(OK)
        await asyncio.sleep(2.4)
        writer.write(GET + b"Connection: close\r\n\r\n")
        assert (await reader.read()).startswith(OK)
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET + b"\r\n"], ids=["nothing", "a line end", "a request"])
async def test_protocol_closes_an_idle_connection(sent: bytes) -> None:
    app = App()
    async with served(app, idle_connection_s=0.2) as port:
        answer = await exchange(port, sent)
    assert answer.count(b"HTTP/1.1 ") == len(app.seen)
    assert app.refused == []


@pytest.mark.parametrize(("connections", "workers"), [(2, 1), (5, 2)])
async def test_protocol_answers_503_over_the_connection_share_of_a_worker(
    connections: int, workers: int
) -> None:
    app = App()
    async with served(app, max_connections=connections, workers=workers) as port:
        open_ones = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        answer = await exchange(port, GET + b"\r\n")
        assert_refused(answer, 503, "too_many_connections")
        assert b"\r\nretry-after: 1\r\n" in answer
        for _, writer in open_ones:
            writer.write(GET + b"Connection: close\r\n\r\n")
        for reader, writer in open_ones:
            assert (await reader.read()).startswith(OK)
            writer.close()
        await assert_serving(port)


@pytest.mark.parametrize("path", [b"/wait", b"/large"])
async def test_disconnect_cancels_work_for_the_client(path: bytes) -> None:
    app = App()
    async with served(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"/ ", path + b" ") + b"\r\n")
        await asyncio.wait_for(app.asked.wait(), 60)
        writer.transport.abort()
        await asyncio.wait_for(app.left.wait(), 60)
        await assert_serving(port)


async def test_disconnect_cancels_work_behind_which_requests_wait() -> None:
    app = App()
    async with served(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"/ ", b"/wait ") + b"\r\n" + GET + b"\r\n")
        await asyncio.wait_for(app.asked.wait(), 60)
        writer.transport.abort()
        await asyncio.wait_for(app.left.wait(), 60)
        assert len(app.seen) == 1


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
BODIES = {
    "length": [b"Content-Length: 12\r\n\r\n", b'{"a": "bcd"}'],
    "chunked": [b"Transfer-Encoding: chunked\r\n\r\n", b'6\r\n{"a": \r\n6\r\n"bcd"}\r\n0\r\n\r\n'],
}


@pytest.mark.parametrize("coding", BODIES)
@pytest.mark.parametrize(
    "offered",
    [
        OFFER,
        OFFER.replace(b"h2c", b"h2c, websocket"),
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        b"Upgrade: TLS/1.2\r\nConnection: keep-alive, Upgrade\r\n",
        b"Upgrade: h2c\r\nConnection: close\r\n",
    ],
    ids=["h2c", "two protocols", "websocket", "TLS", "not a valid offer"],
)
@pytest.mark.parametrize("cut", ["whole", "head first", "everywhere"])
async def test_protocol_declines_an_upgrade_and_keeps_the_body(coding: str, offered: bytes, cut: str) -> None:
    app = App()
    fields, body = BODIES[coding]
    head = POST + offered + fields
    pieces = {
        "whole": [head + body + GET + b"\r\n"],
        "head first": [head, body],
        "everywhere": [head[:50], head[50:-1], head[-1:] + body[:4], body[4:]],
    }[cut]
    async with served(app) as port:
        answer = await exchange(port, *pieces)
        assert answer.startswith(OK)
        # The connection must not go on: the client may switch protocols.
        assert answer.count(b"HTTP/1.1 ") == 1
        await assert_serving(port)
    path, _, received = app.seen[0]
    assert (path, received) == ("/", b'{"a": "bcd"}')


async def test_protocol_keeps_its_limits_for_a_request_that_offers_an_upgrade() -> None:
    app = App()
    async with served(app, request_body_timeout_s=0.2) as port:
        assert_refused(
            await exchange(port, POST + OFFER + b"Content-Length: 5\r\n\r\n{"), 408, "request_timeout"
        )
        twice = POST + OFFER + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert_refused(await exchange(port, twice), 400, "malformed_request")
    assert app.seen == []


async def test_protocol_drops_trailer_fields() -> None:
    app = App()
    trailer = b"Authorization: Bearer k\r\n\r\n"
    async with served(app) as port:
        for pieces in ([b"0\r\n" + trailer], [b"0\r\n", trailer]):
            request = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
            assert (await exchange(port, request + pieces[0], *pieces[1:])).startswith(OK)
    assert app.seen == [("/", 3, b"{}")] * 2


async def test_protocol_limits_the_size_of_a_trailer() -> None:
    app = App()
    request = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    async with served(app) as port:
        fields = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 8000) for number in range(10))
        assert_refused(await exchange(port, request, fields), 431, "headers_too_large")
    assert app.seen == []


async def test_protocol_answers_pipelined_requests_in_order() -> None:
    app = App()
    asked = [GET.replace(b"/ ", b"/%d " % number) + b"\r\n" for number in range(5)]
    async with served(app) as port:
        answer = await exchange(port, b"".join(asked) + GET + b"Connection: close\r\n\r\n")
    assert answer.count(OK) == 6
    assert [path for path, *_ in app.seen] == ["/0", "/1", "/2", "/3", "/4", "/"]


async def test_error_behind_a_request_does_not_enter_its_response() -> None:
    app = App()
    async with served(app) as port:
        answer = await exchange(port, GET.replace(b"/ ", b"/large ") + b"\r\n", b"not HTTP\r\n\r\n")
        assert answer.startswith(OK)
        assert b" 400 " not in answer
        assert app.refused == ["malformed_request"]
        await assert_serving(port)


async def test_client_that_does_not_read_is_cut_off() -> None:
    app = App()
    async with served(app, stalled_client_s=0.5) as port:
        with socket.create_connection(("127.0.0.1", port)) as reader:
            reader.sendall(GET.replace(b"/ ", b"/large ") + b"\r\n")
            await asyncio.wait_for(app.asked.wait(), 60)
            await assert_serving(port)
            await asyncio.wait_for(app.left.wait(), 30)
        await assert_serving(port)
