"""Cost the gateway adds to one whole (not streamed) answer: CPU time, requests a second, latency.

    python loadtests/request_cost.py                                 this checkout
    python loadtests/request_cost.py --tree /tmp/before --tree .     two, alternately, and their ratio
    python loadtests/request_cost.py --limits                        with a key in a database and all limits

The clients and an engine stand-in run in this process. The stand-in answers at once; clients send the next
request as soon as they have their answer: 32 of them for requests a second, then one for latency. Both write
prepared bytes, so that nearly all of the time is the gateway's. `direct` is the latency of the same exchange
without a gateway. Compare only figures of one run.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from checkouts import ABOUT, PROMPT, chunk, compare, comparison_parser, event, rid_of, running_gateway

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"
# An id as long as those of the gateway, which takes its place.
_ID = "chatcmpl-" + "0" * 32
_ANSWER = (
    _OK % b"text/event-stream"
    + b"transfer-encoding: chunked\r\n\r\n"
    + chunk(event(_ID, 15, last=True) + b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class Engine(asyncio.Protocol):
    """Engine stand-in: one event with the whole answer for every `/generate`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        _, has_length, rest = head.lower().partition(b"content-length: ")
        if has_length and len(body) < int(rest.partition(b"\r\n")[0]):
            return
        self._received = b""
        path = head.split(b" ", 2)[1].decode()
        if path == "/generate":
            # Only the gateway's requests have an id.
            rid = rid_of(body) if b'"rid"' in body else _ID
            self._transport.write(_ANSWER.replace(_ID.encode(), rid.encode()))
            return
        about = json.dumps(ABOUT.get(path, {})).encode()
        length = b"content-length: %d\r\n\r\n" % len(about)
        self._transport.write(_OK % b"application/json" + length + about)


class Client(asyncio.Protocol):
    """Client that sends `count` requests in sequence; `times` are the seconds each answer took."""

    def __init__(self, request: bytes, count: int, end: bytes) -> None:
        self._request = request
        self._left = count
        self._end = end
        self._received = b""
        self.times: list[float] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        self._received = b""
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(self._end):
            return
        self.times.append(time.perf_counter() - self._asked)
        assert self._received.startswith(b"HTTP/1.1 200 "), self._received
        self._left -= 1
        if self._left:
            self._ask()
        else:
            self._transport.close()
            self.over.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(exc or ConnectionError(f"closed after {self._received[-300:]!r}"))


async def ask(port: int, *, key: str, clients: int, count: int, path: str, end: bytes) -> list[float]:
    """Run `clients` of `count` requests each at once; return the seconds of every answer."""
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 16}
    ).encode()
    request = (
        b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\naccept: */*\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (path.encode(), key.encode(), len(body), body)
    )
    loop = asyncio.get_running_loop()
    running = [
        (await loop.create_connection(lambda: Client(request, count, end), "127.0.0.1", port))[1]
        for _ in range(clients)
    ]
    await asyncio.gather(*(one.over for one in running))
    return [seconds for one in running for seconds in one.times]


@dataclass(frozen=True)
class Measurement:
    """Requests a second and CPU microseconds a request with 32 clients, latency in ms with one."""

    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    direct_p50_ms: float
    resident_mb: float


async def measure(tree: Path, options: argparse.Namespace) -> Measurement:
    """Start the gateway of `tree`, warm it up, then measure."""
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0)
    engine_port: int = server.sockets[0].getsockname()[1]
    done = options.requests // options.clients * options.clients
    async with server, running_gateway(tree, engine_port, limits=options.limits) as gateway:
        through = partial(
            ask,
            gateway.port,
            key=gateway.key,
            path="/v1/chat/completions",
            end=b'"system_fingerprint":null}',
        )
        await through(clients=options.clients, count=50)
        began, before = time.perf_counter(), gateway.cpu_s()
        await through(clients=options.clients, count=done // options.clients)
        took_s, spent_s = time.perf_counter() - began, gateway.cpu_s() - before
        alone = await through(clients=1, count=options.alone)
        direct = await ask(
            engine_port, key="", clients=1, count=options.alone, path="/generate", end=b"0\r\n\r\n"
        )
        memory_mb = gateway.resident_mb()
    return Measurement(
        per_s=done / took_s,
        cpu_us=spent_s / done * 1e6,
        p50_ms=statistics.median(alone) * 1e3,
        p99_ms=statistics.quantiles(alone, n=100)[98] * 1e3,
        direct_p50_ms=statistics.median(direct) * 1e3,
        resident_mb=memory_mb,
    )


def line(result: Measurement) -> str:
    """Format the measurement as one line."""
    return (
        f"{result.per_s:.0f} requests/s, {result.cpu_us:.0f} us CPU each; alone p50 {result.p50_ms:.3f} ms,"
        f" p99 {result.p99_ms:.3f} ms (direct p50 {result.direct_p50_ms:.3f} ms); {result.resident_mb:.0f} MB"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one line a tree and round, then the medians."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=16_000, help="with all clients together")
    parser.add_argument("--alone", type=int, default=2000, help="requests of the one client")
    compare(parser.parse_args(arguments), measure, cost=lambda one: one.cpu_us, line=line)


if __name__ == "__main__":
    main()
