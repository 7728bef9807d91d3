"""Measurements of one system, in turn: whole answers, streams, a client that vanishes."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serval_load.answers import read_stream
from serval_load.client import Peer, exchange, get, prepared
from serval_load.compare.systems import System
from serval_load.compare.wrk import Rate, rate
from serval_load.stand_in.protocol import TOKEN_TEXT
from serval_load.statistics import percentile

PACE_S = 0.02
_VANISH_AFTER_S = 0.5
_FREE_TIMEOUT_S = 10.0
# About 1.2 KB, like the prompts of published comparisons.
_PROMPT = "Explain how a cache works, with an example from everyday life. " * 18


@dataclass(frozen=True)
class Plan:
    """Durations and loads of a run. Numbers of `streams` are tried in order until one stalls."""

    connections: Sequence[int] = (1, 32, 128)
    seconds: float = 5.0
    streams: Sequence[int] = (10, 25, 50, 100, 200, 300, 400, 500, 600, 800)
    frames: int = 200
    client_cores: str = "1"


@dataclass(frozen=True)
class Streams:
    """Result of `count` streams at once, 50 frames a second each. The engine sends one frame a token."""

    count: int
    frames_per_s: float
    # CPU time of the gateway for 1,000 frames, in milliseconds.
    cpu_ms_per_1000: float
    # Streams without a gap over twice the pace + 20 ms.
    stall_free: int
    gap_p99_ms: float
    first_p50_ms: float
    memory_mb: float
    failed: int


@dataclass
class Result:
    """All figures of one system."""

    name: str
    version: str
    idle_mb: float = 0.0
    rates: list[Rate] = field(default_factory=list)
    # CPU time of the gateway for a whole answer, at the most connections.
    cpu_us_per_request: float = 0.0
    streams: list[Streams] = field(default_factory=list)
    # Seconds from a client's disconnect to a free slot in the engine, or None if that took over ten.
    freed_s: float | None = None


def request(*, tokens: int, stream: bool, orders: Sequence[str] = (), prompt: str = _PROMPT) -> bytes:
    """Request body for every system; `orders` are for the stand-in (`serval_load.stand_in.modelled`)."""
    body: dict[str, Any] = {
        "model": "stand-in",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "stream": stream,
    }
    if orders:
        body["stop"] = [f"stand-in:{order}" for order in orders]
    return json.dumps(body).encode()


async def measure(system: System, *, engine: Peer, plan: Plan, log: Callable[[str], None]) -> Result:
    """Take all measurements of `system`; `engine` is the stand-in behind it."""
    result = Result(system.name, system.version)
    if system.program is not None:
        result.idle_mb = system.program.memory_mb()
    whole = request(tokens=16, stream=False, orders=["at-once"])
    # Warm-up: imports and compilation by the first requests are not measured.
    await rate(system.peer, whole, connections=8, seconds=plan.seconds, cores=plan.client_cores)
    for connections in plan.connections:
        before = _cpu_s(system)
        found = await rate(
            system.peer, whole, connections=connections, seconds=plan.seconds, cores=plan.client_cores
        )
        result.cpu_us_per_request = (_cpu_s(system) - before) / max(found.per_s * plan.seconds, 1) * 1e6
        result.rates.append(found)
        log(
            f"{system.name}: {connections} connections, {found.per_s:.0f} requests/s,"
            f" p50 {found.p50_ms:.2f} ms"
        )
    for count in plan.streams:
        held = await _streams(system, count=count, frames=plan.frames)
        result.streams.append(held)
        log(
            f"{system.name}: {count} streams, {held.frames_per_s:.0f} frames/s, {held.stall_free} stall-free,"
            f" {held.cpu_ms_per_1000:.1f} ms CPU per 1,000 frames"
        )
        if held.stall_free < count:
            break
    result.freed_s = await _freed_s(system.peer, engine)
    log(f"{system.name}: slot free {result.freed_s} s after the client vanished")
    return result


def _cpu_s(system: System) -> float:
    return 0.0 if system.program is None else system.program.cpu_s()


async def _streams(system: System, *, count: int, frames: int) -> Streams:
    body = prepared(system.peer, request(tokens=frames, stream=True))
    before = _cpu_s(system)
    running = []
    # Stagger the starts, as real clients do; all streams still run together for most of the time.
    for _ in range(count):
        running.append(asyncio.create_task(exchange(system.peer, body)))
        await asyncio.sleep(min(0.005, 1.0 / count))
    await asyncio.sleep(frames * PACE_S / 2)
    memory = 0.0 if system.program is None else system.program.memory_mb()
    raws = await asyncio.gather(*running)
    spent_s = _cpu_s(system) - before
    answers = [read_stream(raw) for raw in raws]
    # Timestamps are those of received pieces; frames in one piece have a gap of zero.
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    took_s = max(raw.closed_at for raw in raws) - min(raw.sent_at for raw in raws)
    # Count the engine's frames: a gateway that falls behind may merge several into one.
    received = sum(len(answer.text) // len(TOKEN_TEXT) for answer in answers)
    limit_s = 2 * PACE_S + 0.02
    smooth = [a for a in answers if a.complete and max(a.gaps_s, default=0.0) <= limit_s]
    return Streams(
        count=count,
        frames_per_s=received / took_s,
        cpu_ms_per_1000=spent_s / max(received, 1) * 1e6,
        stall_free=len(smooth),
        gap_p99_ms=percentile(gaps, 99) * 1e3,
        first_p50_ms=percentile([a.first_s for a in answers if a.first_s is not None], 50) * 1e3,
        memory_mb=memory,
        failed=sum(not answer.complete for answer in answers),
    )


async def _freed_s(peer: Peer, engine: Peer) -> float | None:
    body = prepared(peer, request(tokens=4000, stream=True))
    await exchange(peer, body, vanish_after_s=_VANISH_AFTER_S)
    loop = asyncio.get_running_loop()
    gone_at = loop.time()
    while loop.time() - gone_at < _FREE_TIMEOUT_S:
        load = json.loads(await get(engine, "/v1/loads"))
        if load["loads"][0]["num_running_reqs"] == 0:
            return loop.time() - gone_at
        await asyncio.sleep(0.005)
    return None
