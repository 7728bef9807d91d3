"""Requests in all variations, read by our protocol and by h11, the strictest common parser.

h11 reads each as a server does. Where it refuses, so must we; where both accept, they must agree on what was
asked. We may be stricter: `STRICTER` names where.
"""

import asyncio
import random
import re
from typing import Any, Final

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from serval.http.server import server_config
from serval.settings import Settings

# Tried beside the mutations below: what public lists of attacks on parsers of HTTP/1.1 hold.
LINES: Final = [
    *(b"POST / HTTP/1.1", b"GET /a?b=c HTTP/1.1", b"HEAD / HTTP/1.0", b"OPTIONS * HTTP/1.1"),
    *(b"DELETE / HTTP/1.1", b"POST / HTTP/1.0", b"POST  / HTTP/1.1", b"POST / HTTP/1.1 "),
    *(b" POST / HTTP/1.1", b"POST /\t HTTP/1.1", b"POST / HTTP/2.0", b"GET / HTTP/0.9", b"GET /"),
    *(b"GET / RTSP/1.0", b"post / HTTP/1.1", b"POST / HTTP/1.10", b"POST / HTTP/01.1"),
    *(b"POST /\x00 HTTP/1.1", b"POST /\xff HTTP/1.1", b"POST http://y/ HTTP/1.1", b"\r\nGET / HTTP/1.1"),
]
HOSTS: Final = [
    *(b"Host: x", b"host: x:80", b"Host:", b"", b"Host: x\r\nHost: x", b"Host: x\r\nhost: y"),
    *(b"Host : x", b"Host: a b", b"Host: x\r\n folded", b" Host: x", b"Host: x\x00", b"Ho\xffst: x"),
    *(b"Host: x\rX: y", b"Host: x\nX: y", b"Host"),
]
FRAMES: Final = [
    *(b"", b"Content-Length: 5", b"Content-Length: 0", b"content-length: 05", b"Content-Length: +5"),
    *(b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"),
    *(b"Content-Length: 5, 5", b"Content-Length: -1", b"Content-Length: 0x5", b"Content-Length: 5 "),
    *(b"Content-Length: 5x", b"Content-Length:", b"Content-Length: 1_0"),
    *(b"Content-Length: 9999999999999999999999999", b"Content-Length: \xd9\xa5"),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding: CHUNKED", b"Transfer-Encoding: gzip, chunked"),
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    *(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding : chunked"),
    *(b"Transfer-Encoding: xchunked", b"Transfer-Encoding: identity", b"Transfer-Encoding:\tchunked"),
    *(b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding: \x0bchunked"),
    b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
]
BODIES: Final = [
    *(b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\n\r\n"),
    *(b"05\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nX-T: a\r\n\r\n", b"5\r\nhello0\r\n\r\n"),
    *(b"5\nhello\n0\n\n", b"+5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n"),
    *(b"0x5\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n\r\n0\r\n\r\n"),
    *(b"5\r\nhello\r\n0\r\nbad trailer\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\nhello"),
    b"5;\x00\r\nhello\r\n0\r\n\r\n",
]
# Bytes that mutations insert.
INSERTED: Final = [
    *(bytes([code]) for code in b'\x00\t\n\x0b\r ",:;=(){}\x7f\x80\xff0'),
    *(b"\r\n", b"\r\n ", b": "),
]

# Where our protocol may refuse what h11 takes.
STRICTER: Final = {
    "transfer codings of HTTP/1.0 (RFC 9112, 6.1)": rb"HTTP/1\.0\r\n(?s:.*)transfer-encoding",
    "a length beside chunks (RFC 9112, 6.3)": rb"^content-length(?s:.*)^transfer-encoding",
    "chunks beside a length (RFC 9112, 6.3)": rb"^transfer-encoding(?s:.*)^content-length",
    "two lengths, even if they are equal (RFC 9112, 6.3)": rb"^content-length(?s:.*)^content-length",
    "a list of lengths": rb"^content-length:[ \t]*\d+[ \t]*,",
    "hosts that are none (RFC 9112, 3.2)": rb"^host:(?![ \t]*[\w.-]*(?::\d*)?[ \t]*\r?$)",
    "other versions of HTTP": rb"HTTP/(?!1\.[01]\r)",
    "methods unknown to the parser": rb"\A\s*(?!(?-i:POST|GET|HEAD|OPTIONS|DELETE) )",
    "bytes above ASCII in the target (RFC 3986)": rb"\A[^\r\n]*[\x80-\xff]",
    "targets of no form (RFC 9112, 3.2)": rb"\A\s*\w+ [^/*]",
    "characters in the target that are in no URI (RFC 3986)": rb"\A[^\r\n]*[\"<>\\^`{|}#]",
    "lines that end in LF alone (RFC 9112, 2.2)": rb"(?<!\r)\n",
    "chunk extensions that are none, white space after sizes (RFC 9112, 7.1)": rb"^[0-9a-f]+[ \t;]",
    "DEL in a field (RFC 9110, 5.5)": rb"\x7f",
    "folded fields (RFC 9112, 5.2)": rb"\r\n[ \t]",
    "white space around sizes": rb"\d[ \t\x0b]+\r\n",
}
_STRICTER: Final = [re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in STRICTER.values()]


# Method, target, fields and body.
Read = tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]


class Refused(Exception):
    """The request was refused."""


def read_by_h11(request: bytes) -> Read | None:
    """Return method, target, fields and body; None if the request is not complete."""
    connection = h11.Connection(h11.SERVER)
    # The one thing in which we are less strict: line ends before a request are ignored. RFC 9112, 2.2 allows
    # it for CRLF; nothing can hide in a CR or LF alone at this place.
    connection.receive_data(request.lstrip(b"\r\n"))
    head, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                fields = [(bytes(name), bytes(value)) for name, value in head.headers]
                # An application gets the path of an absolute target.
                target = re.sub(rb"^http://[^/]*", b"", bytes(head.target))
                return bytes(head.method), target, fields, body
            else:
                return None
    except h11.RemoteProtocolError as error:
        raise Refused(str(error)) from error


class Transport(asyncio.Transport):
    """Keeps the beginning of what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Server:
    """Reads requests with our protocol."""

    def __init__(self) -> None:
        self._read: list[Read] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message["body"]
                more = message["more_body"]
            target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            # h11 lowers this one.
            fields = [
                (name, value.lower() if name == b"transfer-encoding" else value)
                for name, value in scope["headers"]
            ]
            self._read.append((scope["method"].encode(), target, fields, body))
            # Answer none: a second request must not be read in the place of the first.
            await asyncio.Event().wait()

        self._config = server_config(app, Settings(), refused=lambda code: None, lifespan="off")
        self._config.load()

    async def read(self, request: bytes) -> Read | None:
        """Return method, target, fields and body; None if the request is not complete."""
        self._read.clear()
        make: Any = self._config.http_protocol_class
        transport, state = Transport(), ServerState()
        protocol = make(config=self._config, server_state=state, app_state={})
        protocol.connection_made(transport)
        try:
            protocol.data_received(request)
            for _ in range(6):
                await asyncio.sleep(0)
            if self._read:
                return self._read[0]
            if transport.aborted or transport.written:
                raise Refused(transport.written.decode())
            return None
        finally:
            protocol.connection_lost(None)
            for task in list(state.tasks):
                task.cancel()


def requests(count: int) -> list[bytes]:
    """Every line, host, framing and body beside usual ones, and `count` random mixtures with mutations."""
    usual = (b"POST / HTTP/1.1", b"Host: x", b"Content-Length: 5", b"hello")
    chunked = (*usual[:2], b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")
    parts = (LINES, HOSTS, FRAMES, BODIES)
    made = [
        (*base[:place], part, *base[place + 1 :])
        for base in (usual, chunked)
        for place, all_parts in enumerate(parts)
        for part in all_parts
    ]
    made += [(*usual[:2], frame, body) for frame in FRAMES for body in BODIES]
    chance = random.Random(15)
    joined = [_joined(*each) for each in made]
    for _ in range(count):
        base = chance.choice([usual, chunked])
        request = _joined(*(chance.choice([own, chance.choice(all_parts)]) for own, all_parts in
                            zip(base, parts, strict=True)))  # fmt: skip
        for _ in range(chance.randrange(3)):
            where = chance.randrange(len(request))
            request = request[:where] + chance.choice(INSERTED) + request[where + chance.randrange(2) :]
        joined.append(request)
    return joined


def _joined(line: bytes, host: bytes, frame: bytes, body: bytes) -> bytes:
    return b"".join(part + b"\r\n" for part in (line, host, frame) if part) + b"\r\n" + body


async def differences(count: int) -> list[tuple[bytes, str]]:
    server, found = Server(), []
    for request in requests(count):
        theirs: Any
        ours: Any
        try:
            theirs = read_by_h11(request)
        except Refused as error:
            theirs = error
        try:
            ours = await server.read(request)
        except Refused as error:
            ours = error
        if isinstance(theirs, Refused) and not isinstance(ours, Refused):
            found.append((request, f"h11 refuses it ({theirs}), we read {ours}"))
        elif isinstance(ours, Refused) and not isinstance(theirs, Refused):
            # We may know earlier that a chunk is none.
            if theirs is not None and not any(pattern.search(request) for pattern in _STRICTER):
                found.append((request, f"h11 reads {theirs}, we refuse it ({ours})"))
        elif not isinstance(ours, Refused) and ours != theirs:
            found.append((request, f"h11 reads {theirs}, we {ours}"))
    return found


async def test_protocol_is_as_strict_as_h11_and_reads_the_same() -> None:
    found = await differences(4000)
    for request, difference in found[:20]:
        print(request, difference, sep="\n    ")
    assert not found, f"{len(found)} differences"
