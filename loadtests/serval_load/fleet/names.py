"""Engines that appear and disappear in DNS, under load, without a restart of the gateways."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from serval_load.client import Peer
from serval_load.fleet.clients import steady_load
from serval_load.fleet.finding import Finding
from serval_load.fleet.stack import SLOW, Engine, Fleet, loads
from serval_load.programs import running_gateway

HOST = "engines.test"
# Gives a program a hosts file of its own, which stays writable from outside.
ISOLATED = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
            'mount --bind "$1" /etc/hosts && shift && exec "$@"', "sh")  # fmt: skip
_USED_TIMEOUT_S = 30.0


def write_hosts(file: Path, engines: Sequence[Engine]) -> None:
    """Let the name have the addresses of these engines. The file stays the same one, as it is mounted."""
    lines = ["127.0.0.1 localhost", *(f"{engine.peer.host} {HOST}" for engine in engines)]
    file.write_text("\n".join(lines) + "\n")


@asynccontextmanager
async def running_named(count: int, *, gateways: int) -> AsyncIterator[tuple[Fleet, Path]]:
    """Run engines at addresses of their own, and gateways that find them by the name in a hosts file."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-load-"))
        file = Path(folder) / "hosts"
        engines = [Engine(*SLOW, host="127.0.0.1")]
        port = engines[0].peer.port
        engines += [Engine(*SLOW, host=f"127.0.0.{number}", port=port) for number in range(2, count + 1)]
        await asyncio.gather(*(stack.enter_async_context(engine) for engine in engines))
        write_hosts(file, engines[:-1])
        url, environment = f"dns+http://{HOST}:{port}", {"SERVAL_API_KEY": "sk-load"}
        starts = [
            stack.enter_async_context(
                running_gateway(url, environment=environment, before=(*ISOLATED, os.fspath(file)))
            )
            for _ in range(gateways)
        ]
        started = await asyncio.gather(*starts)
        peers = [Peer.of(url) for _, url in started]
        yield Fleet(engines, [program for program, _ in started], peers, ["sk-load"]), file


async def change_names(fleet: Fleet, file: Path, *, per_s: float, seed: int) -> Finding:
    """Add the last engine to the name, then take the first away."""
    first, added = fleet.engines[0], fleet.engines[-1]
    finding = Finding(("step", "used after, s"))
    async with steady_load(fleet.peer, per_s=per_s, seed=seed) as asked:
        write_hosts(file, fleet.engines)
        finding.rows.append(["an engine added", f"{await _requests(added, more=True):.1f}"])
        write_hosts(file, fleet.engines[1:])
        finding.rows.append(["another removed", f"{await _requests(first, more=False):.1f}"])
    lost = [one for one in asked if not one.answer.complete]
    finding.rows.append([f"{len(asked)} requests, {len(lost)} failed", ""])
    finding.expect(not lost, f"{len(lost)} requests failed")
    return finding


async def _requests(engine: Engine, *, more: bool) -> float:
    """Wait until the engine gets requests, or for three seconds none. Raises `TimeoutError`."""
    loop = asyncio.get_running_loop()
    started = changed = loop.time()
    (counters,) = await loads([engine])
    before = counters.requests.get("started", 0)
    async with asyncio.timeout(_USED_TIMEOUT_S):
        while True:
            await asyncio.sleep(0.1)
            (counters,) = await loads([engine])
            now = counters.requests.get("started", 0)
            if now != before:
                before, changed = now, loop.time()
                if more:
                    return changed - started
            elif not more and loop.time() - changed > 3:
                return changed - started
