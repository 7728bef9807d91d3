"""CPU time of the gateway's Python code for one request and one frame, without sockets and other processes.

    python loadtests/protocol_cost.py                                             under each HTTP protocol
    python loadtests/protocol_cost.py --protocols own --tree /tmp/before --tree .    of two checkouts

Client and engine are fake transports in the same process, so that the figures hold on a busy machine, where
those of request_cost.py and frame_cost.py do not. They leave out the kernel: ratios of whole costs are closer
to 1. Candidates run alternately, each time in a process of its own. The fastest twentieth of a run counts,
and the fastest of the runs.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from checkouts import MODEL, PROMPT, ROOT, chunk, event, rid_of
from http_servers_app import LimitedProtocol
from serval.app import create_apps
from serval.engine.client import connect_engine
from serval.engine.connection import Connection, ConnectionPool
from serval.engine.protocol import EngineInfo
from serval.http.server import server_config
from serval.live_settings import read_live_settings
from serval.process.gateway import load_backend
from serval.process.preparation import prepare
from serval.settings import Settings

PROTOCOLS = ("own", "uvicorn", "uvicorn-limited")
_FRAMES = 1000
_BATCH = 50
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class _Socket:
    """As much of a socket as protocols ask for."""

    family = 0

    def setsockopt(self, *_: Any) -> None:
        """Ignore the option."""

    def getsockname(self) -> tuple[str, int]:
        """Return any address."""
        return "127.0.0.1", 1

    getpeername = getsockname


class _Transport(asyncio.Transport):
    """Keeps the latest write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.latest = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _Socket() if name == "socket" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        self.latest = bytes(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Bench:
    """One client connection, and the engine's connection that its requests go to."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._client = _Transport()
        self._engine: Connection | None = None
        self._engine_transport = _Transport()
        protocol.connection_made(self._client)

    async def connect(self) -> Connection:
        """Stand in for `ConnectionPool._connect`."""
        self._engine = Connection(3600.0)
        self._engine.connection_made(self._engine_transport)
        return self._engine

    async def _ask(self, request: bytes) -> Connection:
        self._engine_transport.latest = self._client.latest = b""
        self._protocol.data_received(request)
        await _until(lambda: self._engine_transport.latest != b"")
        assert self._engine is not None
        return self._engine

    async def frame_times(self) -> list[float]:
        """Seconds for one frame of one stream, a figure for each batch of frames."""
        engine = await self._ask(_request(stream=True))
        rid = rid_of(self._engine_transport.latest)
        frames = [chunk(event(rid, number, last=False)) for number in range(_FRAMES)]
        engine.data_received(_HEAD + frames[0])
        await _until(lambda: self._client.writes > 0 and b"token" in self._client.latest)
        times = []
        for start in range(0, _FRAMES, _BATCH):
            began = time.process_time()
            for frame in frames[start : start + _BATCH]:
                writes = self._client.writes
                engine.data_received(frame)
                if self._client.writes == writes:
                    await _until(lambda before=writes: self._client.writes > before)  # type: ignore[misc]
            times.append((time.process_time() - began) / _BATCH)
        engine.data_received(_last(rid))
        await _until(lambda: self._client.latest.endswith(b"0\r\n\r\n"))
        return times

    async def request_time(self) -> float:
        """Seconds for one whole answer."""
        request = _request(stream=False)
        began = time.process_time()
        engine = await self._ask(request)
        engine.data_received(_HEAD + _last(rid_of(self._engine_transport.latest)))
        await _until(lambda: self._client.latest.endswith(b'"system_fingerprint":null}'))
        return time.process_time() - began


def _last(rid: str) -> bytes:
    """The end of an answer."""
    return chunk(event(rid, _FRAMES, last=True) + b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _request(*, stream: bool) -> bytes:
    messages = [{"role": "user", "content": PROMPT}]
    body = json.dumps(
        {"model": "m", "stream": stream, "messages": messages, "max_tokens": _FRAMES + 1}
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\naccept: */*\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # counts turns of the event loop
        await asyncio.sleep(0)


class _Application:
    """`LimitedProtocol` reads its limits off the application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _config(protocol: str, app: ASGIApp, settings: Settings) -> uvicorn.Config:
    if protocol == "own":
        return server_config(app, settings, refused=lambda code: None, lifespan="off")
    return uvicorn.Config(
        app if protocol == "uvicorn" else _Application(app, settings),
        http=HttpToolsProtocol if protocol == "uvicorn" else LimitedProtocol,
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


async def measure(protocol: str, runs: int) -> dict[str, float]:
    """Microseconds for a frame and a request."""
    settings = Settings(api_key="k", served_model_name="m", model=MODEL)  # type: ignore[arg-type]
    info = EngineInfo(model_path=str(MODEL), context_length=8192, max_prompt_tokens=8000)
    async with connect_engine(settings) as engine:
        live = read_live_settings(settings)
        prepared = prepare(settings, live)
        apps = create_apps(settings, load_backend(settings, engine, info), prepared)
        config = _config(protocol, apps.api, settings)
        config.load()
        make: Any = config.http_protocol_class
        bench = _Bench(make(config=config, server_state=ServerState(), app_state={}))
        ConnectionPool._connect = bench.connect  # type: ignore[method-assign,assignment]
        frames = [seconds for _ in range(runs) for seconds in await bench.frame_times()]
        requests = [await bench.request_time() for _ in range(runs * 100)]
    return {"frame": _fastest(frames), "request": _fastest(requests)}


def _fastest(times: list[float]) -> float:
    return sorted(times)[len(times) // 20] * 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every candidate in turn, in processes of their own, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    add("--tree", type=lambda given: Path(given).resolve(), action="append", help="default: this checkout")
    add("--rounds", type=int, default=5)
    add("--runs", type=int, default=20, help="streams, and hundreds of whole answers, in a round")
    add("--child", choices=PROTOCOLS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(uvloop.run(measure(options.child, options.runs))))
        return
    trees: list[Path] = options.tree or [ROOT]
    candidates = [(tree, protocol) for tree in trees for protocol in options.protocols]
    found: dict[tuple[Path, str], list[dict[str, float]]] = {each: [] for each in candidates}
    for number in range(options.rounds):
        for tree, protocol in candidates[:: 1 if number % 2 else -1]:
            command = [sys.executable, __file__, "--child", protocol, "--runs", str(options.runs)]
            environment = {**os.environ, "PYTHONPATH": str(tree / "server")}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            found[tree, protocol].append(json.loads(done.stdout.splitlines()[-1]))
    first = found[candidates[0]]
    print("| checkout | protocol | CPU a request | CPU a frame |\n| --- | --- | ---: | ---: |")
    for (tree, protocol), results in found.items():
        cells = []
        for name in ("request", "frame"):
            least = min(one[name] for one in results)
            cells.append(f"{least:.1f} µs ({least / min(one[name] for one in first):.2f})")
        print(f"| {tree.name} | {protocol} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
