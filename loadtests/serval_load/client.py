"""Cheap HTTP client: requests are prepared beforehand, answers are kept as bytes with their arrival times.

Parsing an answer happens afterwards, in `serval_load.answers`, so that it costs no time during a run.
"""

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Peer:
    """Server to send requests to, and the API key."""

    host: str
    port: int
    key: str = ""
    tls: bool = False
    # Path in front of that of each request, such as /openai.
    base: str = ""

    @staticmethod
    def of(url: str, key: str = "") -> "Peer":
        """Peer of a base URL such as http://127.0.0.1:8000 or https://example.com/api; /v1 may follow."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        base = parts.path.rstrip("/").removesuffix("/v1")
        return Peer(parts.hostname or "127.0.0.1", port, key, tls, base)


def prepared(peer: Peer, body: bytes, *, path: str = "/v1/chat/completions", method: str = "POST") -> bytes:
    """Request bytes with all headers, which ask the server to close the connection after the answer."""
    authorization = f"Authorization: Bearer {peer.key}\r\n" if peer.key else ""
    head = (
        f"{method} {peer.base}{path} HTTP/1.1\r\nHost: {peer.host}:{peer.port}\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Raw:
    """Raw answer: bytes with their arrival times, and the error that ended the connection, if any.

    Times are of `time.monotonic`, because uvloop's clock counts milliseconds.
    """

    sent_at: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    closed_at: float = 0.0
    failure: str = ""

    @property
    def data(self) -> bytes:
        """All bytes, headers included."""
        return b"".join(piece for _, piece in self.pieces)


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Read the system's certificates once, because that takes longer than a request."""
    return ssl.create_default_context()


class _Exchange(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self.raw = Raw(sent_at=time.monotonic())
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.raw.sent_at = time.monotonic()
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self.raw.pieces.append((time.monotonic(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.raw.closed_at = time.monotonic()
        if exc is not None:
            self.raw.failure = f"{type(exc).__name__}: {exc}"
        if not self.over.done():
            self.over.set_result(None)


async def exchange(peer: Peer, request: bytes, *, vanish_after_s: float | None = None) -> Raw:
    """Send `request` on a connection of its own and read until the server closes it.

    With `vanish_after_s` the connection is reset after that time. Failures are in the result, not raised.
    """
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    try:
        transport, protocol = await loop.create_connection(
            lambda: _Exchange(request), peer.host, peer.port, ssl=_tls_context() if peer.tls else None
        )
    except OSError as error:
        return Raw(sent_at=started, closed_at=time.monotonic(), failure=f"{type(error).__name__}: {error}")
    try:
        if vanish_after_s is None:
            await protocol.over
        else:
            await asyncio.wait([protocol.over], timeout=vanish_after_s)
    finally:
        transport.abort()
    return protocol.raw


async def get(peer: Peer, path: str, *, timeout_s: float = 10.0) -> bytes:
    """The body of a GET. Raises `OSError` or `TimeoutError`."""
    async with asyncio.timeout(timeout_s):
        raw = await exchange(peer, prepared(peer, b"", path=path, method="GET"))
    if raw.failure:
        raise OSError(raw.failure)
    return raw.data.partition(b"\r\n\r\n")[2]
