"""One run: gateway and stand-in, the mix all at once, and the others who use the gateway meanwhile."""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from serval_load.abuse.bystanders import Noticed, bystanders
from serval_load.abuse.memory_limit import MemoryLimit, memory_limit
from serval_load.abuse.mix import Kind
from serval_load.client import Peer, prepared
from serval_load.compare.systems import new_key
from serval_load.programs import DEMO_MODEL, QUICK, Program, process_tree, running_program, running_stand_in

_SAMPLE_EVERY_S = 0.05
_CALM_S = 3.0
_GIVE_UP_S = 300.0
# Limits of the abusive keys, which refuse nearly every request.
_POOR_KEYS = 4
_POOR = ("--requests-per-minute=1", "--tokens-per-minute=1000")


@dataclass(frozen=True)
class AbuseResult:
    """Figures of one run. Memory is in MB, of the gateway's processes together."""

    limit: str
    memory_before_mb: float
    memory_peak_mb: float
    memory_after_mb: float
    # Seconds until the last abusive request had its answer.
    took_s: float
    # The gateway's exit code if it ended by itself.
    ended: int | None
    noticed: Noticed
    # Number of abusive requests by kind and answer.
    answers: dict[str, dict[str, int]]

    def as_object(self) -> dict[str, Any]:
        return asdict(self)


async def abuse(tree: Path, mix: Sequence[Kind], *, limit_mib: int) -> AbuseResult:
    """Run the gateway of the checkout `tree`, held to `limit_mib`, under the mix."""
    async with AsyncExitStack() as stack:
        limit = stack.enter_context(memory_limit(limit_mib))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-load-"))
        database = f"{folder}/keys.db"
        rich = await asyncio.to_thread(new_key, database)
        poor = [await asyncio.to_thread(new_key, database, *_POOR) for _ in range(_POOR_KEYS)]
        _, engine_url = await stack.enter_async_context(
            running_stand_in(*QUICK, "--kv-tokens=1000000", "--context-length=131072")
        )
        gateway, url = await stack.enter_async_context(_gateway(tree, engine_url, database, limit))
        pipe = stack.enter_context(_others(Peer.of(url, rich), Peer.of(engine_url)))
        await asyncio.sleep(_CALM_S)
        before = peak = resident_mb(gateway.pid)
        started = time.monotonic()
        sending = asyncio.ensure_future(_send_all([Peer.of(url, key) for key in poor], mix))
        while not sending.done() and gateway.process.poll() is None:
            await asyncio.wait([sending], timeout=_SAMPLE_EVERY_S)
            peak = max(peak, resident_mb(gateway.pid))
        answers = await sending
        took_s = time.monotonic() - started
        pipe.send(True)
        noticed: Noticed = await asyncio.to_thread(pipe.recv)
        return AbuseResult(
            limit=limit.describe(),
            memory_before_mb=round(before),
            memory_peak_mb=round(peak),
            memory_after_mb=round(resident_mb(gateway.pid)),
            took_s=round(took_s, 1),
            ended=gateway.process.poll(),
            noticed=noticed,
            answers=answers,
        )


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    total = 0.0
    for one in process_tree(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    return total


@asynccontextmanager
async def _gateway(
    tree: Path, engine_url: str, database: str, limit: MemoryLimit
) -> AsyncIterator[tuple[Program, str]]:
    command = [sys.executable, "-m", "serval", "gateway", f"--engine-url={engine_url}", "--port=0"]
    command += [f"--model={DEMO_MODEL}", "--served-model-name=stand-in"]
    environment = {"SERVAL_KEY_DATABASE": database, "PYTHONPATH": str(tree / "server")}
    async with running_program("gateway", limit.command(command), environment=environment) as program:
        line = await program.wait_for_line(" on http://127.0.0.1:")
        yield program, line.rpartition(" on ")[2]


@contextlib.contextmanager
def _others(peer: Peer, engine: Peer) -> Iterator[Connection]:
    """Run the bystanders; yields the pipe to them."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=bystanders, args=(peer, engine, there), daemon=True)
    process.start()
    try:
        here.recv()
        yield here
    finally:
        process.kill()
        process.join()


async def _send_all(peers: Sequence[Peer], mix: Sequence[Kind]) -> dict[str, dict[str, int]]:
    """Send all requests at once, with the keys of `peers` in turn. Return the answers of each kind."""
    requests = {
        (kind.name, peer): prepared(peer, kind.body, path=kind.path) for kind in mix for peer in peers
    }
    answers: dict[str, Counter[str]] = {kind.name: Counter() for kind in mix}

    async def send(kind: Kind, peer: Peer) -> None:
        answers[kind.name][await _answer(peer, requests[kind.name, peer], kind.hold_s)] += 1

    # One of each kind after another, so that the kinds are mixed.
    rounds = range(max(kind.count for kind in mix))
    order = [kind for number in rounds for kind in mix if number < kind.count]
    await asyncio.gather(*map(send, order, itertools.cycle(peers)))
    return {name: dict(found) for name, found in answers.items()}


async def _answer(peer: Peer, request: bytes, hold_s: float) -> str:
    """Send a request, its last byte after `hold_s`, and return the answer's status and error code."""
    try:
        async with asyncio.timeout(_GIVE_UP_S):
            reader, writer = await asyncio.open_connection(peer.host, peer.port)
            sending = asyncio.ensure_future(_write(writer, request, hold_s))
            try:
                answer = await reader.read(-1)
            finally:
                sending.cancel()
                writer.transport.abort()
    except OSError as error:
        return type(error).__name__
    except TimeoutError:
        return f"none after {_GIVE_UP_S:.0f} s"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[9:12].decode()
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = ""
    return f"{status} {code}".strip() or "closed"


async def _write(writer: asyncio.StreamWriter, request: bytes, hold_s: float) -> None:
    with contextlib.suppress(OSError):
        view = memoryview(request)
        # In pieces, because a transport copies what it cannot send at once.
        for start in range(0, len(request) - 1, 1 << 18):
            writer.write(view[start : min(start + (1 << 18), len(request) - 1)])
            await writer.drain()
        await asyncio.sleep(hold_s)
        writer.write(view[-1:])
