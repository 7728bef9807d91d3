"""What the gateway adds to one whole (not streamed) answer: CPU time, requests a second, latency.

    python loadtests/request_cost.py                                 this checkout
    python loadtests/request_cost.py --tree /tmp/before --tree .     two, alternately, and their ratio

Beside the gateway run, in this process, an engine stand-in that answers at once and clients that ask again as
soon as they have their answer: 32 of them for requests a second, then one for latency. Both write bytes
prepared beforehand, so that nearly all of the time is the gateway's. `direct` is the latency of the same
exchange without a gateway. Only figures of one run compare.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from frame_cost import (
    _ABOUT,
    KEY,
    MODEL,
    ROOT,
    chunk,
    comparison_parser,
    cpu_seconds,
    frame,
    listening_port,
    resident_mb,
    start,
)

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"
_ANSWER = (
    _OK % b"text/event-stream"
    + b"transfer-encoding: chunked\r\n\r\n"
    + chunk(frame("chatcmpl-0", 16, last=True) + b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class Engine(asyncio.Protocol):
    """The stand-in: one event with the whole answer for every `/generate`."""

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
            self._transport.write(_ANSWER)
            return
        about = json.dumps(_ABOUT.get(path, {})).encode()
        length = b"content-length: %d\r\n\r\n" % len(about)
        self._transport.write(_OK % b"application/json" + length + about)


class Client(asyncio.Protocol):
    """Asks `count` times, one after the other; `times` are the seconds each answer took."""

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


async def ask(port: int, *, clients: int, count: int, path: str, end: bytes) -> list[float]:
    """`clients` that ask `count` times each, at once; the seconds of every answer."""
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "What is Serval?"}], "max_tokens": 16}
    ).encode()
    request = (
        b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\naccept: */*\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (path.encode(), KEY.encode(), len(body), body)
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
    """Of one gateway: requests a second and CPU microseconds each with 32 clients, latency in ms with one."""

    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    direct_p50_ms: float
    resident_mb: float


async def measure(tree: Path, options: argparse.Namespace) -> Measurement:
    """Start the gateway of `tree`, warm it up, then measure."""
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0)
    engine_port = server.sockets[0].getsockname()[1]
    command = [sys.executable, "-m", "serval", "gateway", f"--engine-url=http://127.0.0.1:{engine_port}"]
    command += [f"--model={MODEL}", "--served-model-name=m", "--port=0"]
    environment = {**os.environ, "PYTHONPATH": str(tree / "server"), "SERVAL_API_KEY": KEY}
    with tempfile.TemporaryFile() as log:
        gateway = start(command, environment, log)
        try:
            port = await listening_port(gateway, log)
            through = {"path": "/v1/chat/completions", "end": b'"system_fingerprint":null}'}
            await ask(port, clients=options.clients, count=50, **through)
            began, spent = time.perf_counter(), cpu_seconds(gateway.pid)
            await ask(port, clients=options.clients, count=options.requests // options.clients, **through)
            took_s, spent = time.perf_counter() - began, cpu_seconds(gateway.pid) - spent
            done = options.requests // options.clients * options.clients
            alone = await ask(port, clients=1, count=options.alone, **through)
            direct = await ask(
                engine_port, clients=1, count=options.alone, path="/generate", end=b"0\r\n\r\n"
            )
            memory_mb = resident_mb(gateway.pid)
        finally:
            gateway.terminate()
            gateway.wait(30)
            server.close()
    return Measurement(
        per_s=done / took_s,
        cpu_us=spent / done * 1e6,
        p50_ms=statistics.median(alone) * 1e3,
        p99_ms=statistics.quantiles(alone, n=100)[98] * 1e3,
        direct_p50_ms=statistics.median(direct) * 1e3,
        resident_mb=memory_mb,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one line a tree and round, then the medians."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=16_000, help="with all clients together")
    parser.add_argument("--alone", type=int, default=2000, help="requests of the one client")
    options = parser.parse_args(arguments)
    trees = options.tree or [ROOT]
    found: dict[Path, list[Measurement]] = {tree: [] for tree in trees}
    for number in range(options.rounds):
        for tree in trees:
            result = uvloop.run(measure(tree, options))
            found[tree].append(result)
            print(f"round {number + 1} {tree}: {line(result)}", flush=True)
    first = statistics.median(one.cpu_us for one in found[trees[0]])
    for tree in trees:
        cpu_us = statistics.median(one.cpu_us for one in found[tree])
        per_s = statistics.median(one.per_s for one in found[tree])
        print(
            f"median {tree}: {per_s:.0f} requests/s, {cpu_us:.0f} us CPU each,"
            f" {first / cpu_us:.2f} x less than the first"
        )


def line(result: Measurement) -> str:
    """The measurement in words."""
    return (
        f"{result.per_s:.0f} requests/s, {result.cpu_us:.0f} us CPU each; alone p50 {result.p50_ms:.3f} ms,"
        f" p99 {result.p99_ms:.3f} ms (direct p50 {result.direct_p50_ms:.3f} ms); {result.resident_mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
