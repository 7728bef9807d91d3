"""Whole programs: engines that can be killed, drained and started again, and gateways in front of them."""

import asyncio
import json
import random
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serval_load.client import Peer, exchange, get, prepared
from serval_load.programs import Program, free_port, running_gateway, running_program

# A stand-in slow enough that the programs' own CPU time does not count: 5,000 tokens of prompts and 25
# tokens of an answer a second.
SLOW = (
    "--prefill-base-s=0.002",
    "--prefill-token-s=0.0002",
    "--decode-base-s=0.04",
    "--decode-request-s=0.0001",
    "--kv-tokens=250000",
)
_START_TIMEOUT_S = 180


class Engine:
    """An engine at an address of its own, by default a stand-in with these options. Use as a context."""

    def __init__(
        self,
        *options: str,
        command: Sequence[str] | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        """`command` starts another program, to which `--port` is added."""
        port = port or free_port()
        self.url = f"http://{host}:{port}"
        self.peer = Peer(host, port)
        stand_in = [sys.executable, "-m", "serval_load", "engine", f"--host={host}", *options]
        self._command = [*(stand_in if command is None else command), f"--port={port}"]
        self._running = AsyncExitStack()
        self.program: Program | None = None

    @property
    def name(self) -> str:
        """Name of the engine in the gateways' metrics."""
        return self.url.removeprefix("http://")

    async def __aenter__(self) -> "Engine":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    async def start(self) -> None:
        """Start the program, and wait until it is ready. Raises `RuntimeError`."""
        self.program = await self._running.enter_async_context(running_program("engine", self._command))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_TIMEOUT_S
        request = prepared(self.peer, b"", path="/ready", method="GET")
        while loop.time() < deadline and self.program.process.poll() is None:
            if (await exchange(self.peer, request, vanish_after_s=5)).data.startswith(b"HTTP/1.1 200"):
                return
            await asyncio.sleep(0.02)
        said = self.program.output.read_text(errors="replace")[-4000:]
        raise RuntimeError(f"the engine did not start:\n{said}")

    async def kill(self) -> None:
        """End the program at once, with all that it runs."""
        await self._end(signal.SIGKILL)

    async def drain(self) -> bool:
        """Ask the program to end, and wait until it has; True if it finished its requests."""
        return await self._end(signal.SIGTERM) == 0

    async def _end(self, number: signal.Signals) -> int:
        assert self.program is not None
        process = self.program.process
        process.send_signal(number)
        code = await asyncio.to_thread(process.wait)
        await self._running.aclose()
        self._running = AsyncExitStack()
        return code

    async def load(self) -> "EngineCounters":
        """Ask a stand-in for its counters."""
        told = json.loads(await get(self.peer, "/v1/loads"))
        return EngineCounters(told["loads"][0], told["stand_in"])


@dataclass(frozen=True)
class EngineCounters:
    """Counters of a stand-in: its load as SGLang reports it, and its requests by outcome."""

    load: Mapping[str, Any]
    requests: Mapping[str, int]

    @property
    def computed(self) -> int:
        """Prompt tokens computed so far."""
        return int(self.load["total_prefill_uncached_tokens"])

    @property
    def running(self) -> int:
        return int(self.load["num_running_reqs"])

    @property
    def waiting(self) -> int:
        return int(self.load["num_waiting_reqs"])


@dataclass(frozen=True)
class Fleet:
    """Gateways that share nothing, and their engines. `keys` are accepted by all gateways."""

    engines: Sequence[Engine]
    gateways: Sequence[Program]
    peers: Sequence[Peer]
    keys: Sequence[str]
    _source: random.Random = field(default_factory=lambda: random.Random(0))

    def peer(self, key: int = 0, *, gateway: int | None = None) -> Peer:
        """Return any gateway, or that with this number, for the client with the key number `key`."""
        number = self._source.randrange(len(self.peers)) if gateway is None else gateway
        found = self.peers[number % len(self.peers)]
        return Peer(found.host, found.port, self.keys[key])

    def cpu_s(self) -> float:
        """CPU time of the gateways so far."""
        return sum(gateway.cpu_s() for gateway in self.gateways)

    async def state_of(self, engine: Engine) -> list[str]:
        """Return the engine's state by the metrics of each gateway; "gone" if there is none."""
        return [_state(await get(peer, "/metrics"), engine.name) for peer in self.peers]


def _state(metrics: bytes, name: str) -> str:
    for line in metrics.decode().splitlines():
        if line.startswith(f'serval_place_state{{place="{name}"') and line.endswith(" 1.0"):
            return line.partition('state="')[2].partition('"')[0]
    return "gone"


async def loads(engines: Sequence[Engine]) -> list[EngineCounters]:
    """Ask all stand-ins for their counters."""
    return list(await asyncio.gather(*(engine.load() for engine in engines)))


@asynccontextmanager
async def running_engines(count: int, *options: str) -> AsyncIterator[list[Engine]]:
    """Run stand-ins."""
    async with AsyncExitStack() as stack:
        engines = [Engine(*(options or SLOW)) for _ in range(count)]
        await asyncio.gather(*(stack.enter_async_context(engine) for engine in engines))
        yield engines


@asynccontextmanager
async def running_gateways(
    engines: Sequence[Engine],
    *options: str,
    gateways: int = 3,
    keys: int = 1,
    one_each: bool = False,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Fleet]:
    """Run gateways in front of all engines, or each in front of one of them if `one_each`."""
    names = [f"sk-{secrets.token_hex(8)}" for _ in range(keys)]
    urls = ",".join(engine.url for engine in engines)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-load-"))
        file = Path(folder) / "keys"
        file.write_text("\n".join(names))
        settings = {"SERVAL_API_KEY_FILE": str(file), **(environment or {})}
        starts = [
            stack.enter_async_context(running_gateway(url, *options, environment=settings))
            for url in ([engine.url for engine in engines] if one_each else [urls] * gateways)
        ]
        started = await asyncio.gather(*starts)
        yield Fleet(engines, [program for program, _ in started], [Peer.of(url) for _, url in started], names)
