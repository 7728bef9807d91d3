"""HTTP servers under the gateway's application: CPU a request and a frame, stall-free streams, protections.

    python loadtests/http_servers.py                              our own, and uvicorn in two forms
    python loadtests/http_servers.py --granian FOLDER             granian too
    python loadtests/http_servers.py --only own --protections     one, and no measurement

FOLDER holds granian: `uv pip install --target FOLDER granian`; it is not a dependency of this project. The
candidates run alternately, round after round, in front of engine stand-ins of request_cost.py and
frame_cost.py. Costs are the lowest of the rounds, which other work on the machine distorts least; the rest
are medians. Each protection is tried over bare sockets, with short limits.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

import frame_cost
import request_cost
from checkouts import MODEL, ROOT, Gateway
from http_servers_app import CANDIDATES

KEY = "sk-cost"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "What is Serval?"}]}
PACE_S = 0.02
# Limits for trying protections.
LIMIT_S = 1.0
CONNECTIONS = 20
SHORT_LIMITS = {
    "SERVAL_REQUEST_HEAD_TIMEOUT_S": str(LIMIT_S),
    "SERVAL_REQUEST_BODY_TIMEOUT_S": str(LIMIT_S),
    "SERVAL_IDLE_CONNECTION_S": str(LIMIT_S),
    "SERVAL_STALLED_CLIENT_S": str(LIMIT_S),
    "SERVAL_MAX_CONNECTIONS": str(CONNECTIONS),
}


class ServerTree(Gateway):
    """A server whose CPU time includes that of its worker processes."""

    def cpu_s(self) -> float:
        """User and system time of the process and its children so far."""
        return super().cpu_s() + sum(Gateway(pid, 0, "").cpu_s() for pid in self._children())

    def resident_mb(self) -> float:
        """Memory that the process and its children hold."""
        return super().resident_mb() + sum(Gateway(pid, 0, "").resident_mb() for pid in self._children())

    def _children(self) -> list[int]:
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in found if b"\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@contextlib.asynccontextmanager
async def running_server(
    candidate: str, engine_port: int, *, granian: Path | None, limits: dict[str, str] | None = None
) -> AsyncIterator[Gateway]:
    """The gateway's application under `candidate`, in front of an engine on `engine_port`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    paths = [ROOT / "server", ROOT / "loadtests", *([] if granian is None else [granian])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "SERVAL_ENGINE_URL": f"http://127.0.0.1:{engine_port}",
        "SERVAL_MODEL": str(MODEL),
        "SERVAL_SERVED_MODEL_NAME": "m",
        "SERVAL_API_KEY": KEY,
        **(limits or {}),
    }
    command = [sys.executable, str(ROOT / "loadtests/http_servers_app.py"), candidate, str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # starts at once
            command, env=environment, stdout=log, stderr=log
        )
        try:
            await _until_ready(port, process)
            yield ServerTree(process.pid, port, KEY)
        except BaseException:
            log.seek(0)
            print(log.read().decode()[-3000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)


async def _until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        answer = await exchange(port, b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        if answer.startswith(b"HTTP/1.1 200"):
            return
        await asyncio.sleep(0.2)
    raise SystemExit("the server did not start")


@dataclass
class Costs:
    """Figures of one candidate, one entry a round."""

    request_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    frame_us: list[float] = field(default_factory=list)
    stall_free: list[int] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


async def measure(candidate: str, options: argparse.Namespace, costs: Costs) -> None:
    """One round."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(request_cost.Engine, "127.0.0.1", 0)
    async with (
        server,
        running_server(candidate, server.sockets[0].getsockname()[1], granian=options.granian) as gateway,
    ):
        await _ask(gateway, clients=32, count=50)
        began, before = time.perf_counter(), gateway.cpu_s()
        await _ask(gateway, clients=32, count=options.requests // 32)
        done = options.requests // 32 * 32
        costs.per_s.append(done / (time.perf_counter() - began))
        costs.request_us.append((gateway.cpu_s() - before) / done * 1e6)
        costs.memory_mb.append(gateway.resident_mb())
    engine = frame_cost.Engine(frames=options.frames, pace_s=options.pace)
    frames_server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, backlog=2048)
    engine_port = frames_server.sockets[0].getsockname()[1]
    async with frames_server, running_server(candidate, engine_port, granian=options.granian) as gateway:
        await gaps_of(gateway)
        held = 0
        for count in options.streams:
            before = gateway.cpu_s()
            longest = await _streams(gateway, count, pace_s=options.pace)
            if count == options.streams[0]:
                spent_s = gateway.cpu_s() - before
                costs.frame_us.append(spent_s / (count * options.frames) * 1e6)
            # A stream without a stall has no gap of more than twice the pace and 20 ms.
            if max(longest) > 2 * options.pace + 0.02:
                break
            held = count
        costs.stall_free.append(held)


async def _ask(gateway: Gateway, *, clients: int, count: int) -> None:
    await request_cost.ask(
        gateway.port,
        key=gateway.key,
        clients=clients,
        count=count,
        path="/v1/chat/completions",
        end=b'"system_fingerprint":null}',
    )


async def _streams(gateway: Gateway, count: int, *, pace_s: float) -> list[float]:
    """The longest gap in each of `count` streams, which start one after the other."""
    running = []
    for _ in range(count):
        running.append(asyncio.create_task(gaps_of(gateway)))
        await asyncio.sleep(pace_s / 7)
    return await asyncio.gather(*running)


async def gaps_of(gateway: Gateway) -> float:
    """Ask for one stream; the longest time between two pieces of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(chat(gateway.key, stream=True))
    received, latest, longest = b"", 0.0, 0.0
    while piece := await reader.read(1 << 16):
        now = time.perf_counter()
        if latest:
            longest = max(longest, now - latest)
        latest = now
        received += piece
    writer.close()
    assert b"data: [DONE]" in received, received[-300:]
    return longest


def chat(key: str, *, stream: bool = False, fields: bytes = b"connection: close\r\n") -> bytes:
    """A request, with more header `fields`."""
    body = json.dumps({**CHAT, "stream": stream}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n%b"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (key.encode(), fields, len(body), body)
    )


# Protections. Each says what happened, in a word or two; the first of `good` that it begins with is the aim.

Attempt = Callable[[Gateway], Awaitable[str]]
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
PATIENCE_S = 4 * LIMIT_S


async def exchange(port: int, *pieces: bytes, pause_s: float = 0.02, patience_s: float = 30.0) -> bytes:
    """Everything that comes back until the server closes the connection; b"open" if it does not."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    received = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(patience_s):
            while piece := await reader.read(1 << 16):
                received += piece
    except TimeoutError:
        return received + b"open"
    except OSError:
        pass
    finally:
        writer.close()
    return received


def _outcome(answer: bytes) -> str:
    if answer.startswith(b"HTTP/1.1 "):
        return answer[9:12].decode() + (", left open" if answer.endswith(b"open") else "")
    return "left open" if answer.endswith(b"open") else "closed"


def _sending(*pieces: bytes, pause_s: float = 0.02) -> Attempt:
    async def attempt(gateway: Gateway) -> str:
        return _outcome(await exchange(gateway.port, *pieces, pause_s=pause_s, patience_s=PATIENCE_S))

    return attempt


async def _slow_body(gateway: Gateway) -> str:
    return _outcome(await exchange(gateway.port, chat(gateway.key)[:-5], patience_s=PATIENCE_S))


async def _upgrade(gateway: Gateway) -> str:
    fields = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
    request = chat(gateway.key, fields=fields)
    return _outcome(await exchange(gateway.port, request, patience_s=PATIENCE_S)).removesuffix(", left open")


async def _trailer(gateway: Gateway) -> str:
    body = json.dumps(CHAT).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\nauthorization: Bearer %b\r\n\r\n" % (len(body), body, gateway.key.encode())
    )
    return _outcome(await exchange(gateway.port, request, patience_s=PATIENCE_S))


async def _garbage_behind(gateway: Gateway) -> str:
    stream = chat(gateway.key, stream=True, fields=b"")
    answer = await exchange(gateway.port, stream + b"not HTTP\r\n\r\n", patience_s=PATIENCE_S)
    stream, _, behind = answer.partition(b"data: [DONE]")
    apart = stream.count(b"HTTP/1.1 ") == 1 and behind.count(b"HTTP/1.1 ") <= 1
    return "kept apart" if apart else "mixed in"


async def _connections(gateway: Gateway) -> str:
    held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(CONNECTIONS)]
    answer = await exchange(gateway.port, GET + b"connection: close\r\n\r\n", patience_s=PATIENCE_S)
    for _, writer in held:
        writer.close()
    return _outcome(answer)


async def _stalled(gateway: Gateway) -> str:
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(client, chat(gateway.key, stream=True))
        await asyncio.sleep(3 * PATIENCE_S)
        received = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while piece := await loop.sock_recv(client, 1 << 16):
                    received += piece
        except (OSError, TimeoutError):
            pass
    return "served on" if b"[DONE]" in received else "cut off"


async def _leaves(gateway: Gateway) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(chat(gateway.key, stream=True))
    await reader.readuntil(b" token")
    writer.transport.abort()
    deadline = time.monotonic() + PATIENCE_S / 2
    while not AbortCounter.aborts and time.monotonic() < deadline:  # noqa: ASYNC110  # other loops count
        await asyncio.sleep(0.05)
    return "engine freed" if AbortCounter.aborts else "not noticed"


class AbortCounter(frame_cost.Engine):
    """An engine that counts what it is told to abort."""

    aborts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with its requests looked at."""
        read_until = reader.readuntil

        async def counted(separator: bytes) -> bytes:
            head = await read_until(separator)
            AbortCounter.aborts += head.startswith(b"POST /abort_request ")
            return head

        reader.readuntil = counted  # type: ignore[method-assign,assignment]
        await super().serve(reader, writer)


PROTECTIONS: dict[str, tuple[Attempt, Sequence[str]]] = {
    "half a head, then nothing": (_sending(GET + b"x-a: "), ("408", "closed")),
    "head, a byte now and then": (_sending(*[GET, *[b"x-a: a\r\n"] * 30], pause_s=0.1), ("408", "closed")),
    "half a body, then nothing": (_slow_body, ("408", "closed")),
    "head of 70 KB": (_sending(GET + b"x-a: " + b"a" * 70_000 + b"\r\n\r\n"), ("431", "400", "closed")),
    "head of 150 fields": (
        _sending(GET + b"".join(b"x-%d: a\r\n" % number for number in range(150)) + b"\r\n"),
        ("431", "400", "closed"),
    ),
    "connection without a request": (_sending(b""), ("closed",)),
    "idle after a request": (_sending(GET + b"\r\n"), ("200",)),
    "one connection too many": (_connections, ("503", "closed")),
    "garbage behind a streamed request": (_garbage_behind, ("kept apart",)),
    "client that does not read": (_stalled, ("cut off",)),
    "client that leaves": (_leaves, ("engine freed",)),
    "h2c upgrade with a body": (_upgrade, ("200",)),
    "key in a trailer field": (_trailer, ("401",)),
}


async def try_protections(candidate: str, options: argparse.Namespace) -> dict[str, str]:
    """The outcome of each attempt; those that miss their aim begin with "no: "."""
    outcomes = {}
    for name, (attempt, good) in PROTECTIONS.items():
        AbortCounter.aborts = 0
        # Long answers for the attempts that are about streams, short ones for the others.
        engine = AbortCounter(frames=200 if attempt in (_stalled, _leaves) else 20, pace_s=PACE_S)
        engine_server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
        port = engine_server.sockets[0].getsockname()[1]
        starting = running_server(candidate, port, granian=options.granian, limits=SHORT_LIMITS)
        async with engine_server, starting as gateway:
            outcome = await attempt(gateway)
        hit = outcome in good
        outcomes[name] = outcome if hit else f"no: {outcome}"
        print(f"{candidate}: {name}: {outcomes[name]}", flush=True)
    return outcomes


def costs_table(found: dict[str, Costs]) -> str:
    """Costs as Markdown; in brackets, relative to the first candidate."""
    first = next(iter(found.values()))
    lines = [
        "| server | CPU a request | CPU a frame | requests/s | most stall-free streams | memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, costs in found.items():
        request_us, frame_us = min(costs.request_us), min(costs.frame_us)
        lines.append(
            f"| {name} | {request_us:.0f} µs ({request_us / min(first.request_us):.2f})"
            f" | {frame_us:.1f} µs ({frame_us / min(first.frame_us):.2f})"
            f" | {statistics.median(costs.per_s):.0f} | {statistics.median(costs.stall_free):.0f}"
            f" | {statistics.median(costs.memory_mb):.0f} MB |"
        )
    return "\n".join(lines)


def protections_table(found: dict[str, dict[str, str]]) -> str:
    """Outcomes, as Markdown."""
    lines = [f"| | {' | '.join(found)} |", f"| --- {'| --- ' * len(found)}|"]
    lines += [f"| {name} | {' | '.join(each[name] for each in found.values())} |" for name in PROTECTIONS]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, try, and print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--granian", type=lambda given: Path(given).resolve(), help="folder with granian's packages")
    add("--only", nargs="+", choices=CANDIDATES, help="candidates (default: all that are installed)")
    add("--rounds", type=int, default=3)
    add("--requests", type=int, default=8000, help="whole answers in a round")
    add("--frames", type=int, default=200, help="frames of each stream")
    add("--pace", type=float, default=PACE_S, help="seconds between two frames of a stream")
    add("--streams", type=int, nargs="+", default=[50, 100, 150, 200, 300, 400], help="tried in order")
    add("--protections", action="store_true", help="try the protections, measure nothing")
    add("--costs", action="store_true", help="measure, try no protections")
    options = parser.parse_args(arguments)
    names = options.only or [name for name in CANDIDATES if name != "granian" or options.granian]
    tables = []
    if not options.protections:
        costs = {name: Costs() for name in names}
        for number in range(options.rounds):
            for name in names:
                uvloop.run(measure(name, options, costs[name]))
                one = costs[name]
                print(
                    f"round {number + 1} {name}: {one.request_us[-1]:.0f} us a request,"
                    f" {one.frame_us[-1]:.1f} us a frame, {one.stall_free[-1]} stall-free",
                    flush=True,
                )
        tables.append(costs_table(costs))
    if not options.costs:
        # It tells of each write to a gateway that has gone.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        tables.append(
            protections_table({name: asyncio.run(try_protections(name, options)) for name in names})
        )
    print("\n" + "\n\n".join(tables))


if __name__ == "__main__":
    main()
