"""Clients that leave at random moments: each request ends at once where it runs, and nowhere else."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from serval_load.client import exchange, get, prepared
from serval_load.fleet.clients import body_of
from serval_load.fleet.finding import Finding
from serval_load.fleet.stack import EngineCounters, Fleet, loads
from serval_load.statistics import percentile
from serval_load.workloads.sessions import words

ABORT_S = 0.1
_SETTLE_S = 5.0
_TICK_S = 0.005


async def leave_at_random(
    fleet: Fleet, *, clients: int, per_s: float, seed: int, bound_s: float = ABORT_S
) -> Finding:
    """Let clients come at a rate, each of which leaves after up to a second, in the middle of a long answer.

    An abort is late if it reaches the engine more than `bound_s` after the client left. On a busy machine
    each of the three programs in between may be held up as long as this one was.
    """
    source = random.Random(seed)
    before = await loads(fleet.engines)
    left: dict[str, float] = {}

    async def client(name: str, stays_s: float, text: str) -> None:
        turn = {"messages": [{"role": "user", "content": text}], "max_tokens": 500}
        peer = fleet.peer()
        request = prepared(peer, body_of({**turn, "stop": [f"stand-in:client={name}"]}))
        raw = await exchange(peer, request, vanish_after_s=stays_s)
        assert not raw.failure, raw.failure
        left[name] = time.monotonic()

    lag = asyncio.create_task(_longest_lag())
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(f"{seed}-{number}", source.uniform(0, 1), words(source, 30)))
            await asyncio.sleep(source.expovariate(per_s))
    await _until_free(fleet)
    lag.cancel()
    return await compare(fleet, left, before, bound_s=bound_s + 3 * await lag)


async def _longest_lag() -> float:
    """Return by how many seconds timers of this program were late at most, when cancelled."""
    longest = 0.0
    try:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK_S)
            longest = max(longest, time.monotonic() - before - _TICK_S)
    except asyncio.CancelledError:
        return longest


async def _until_free(fleet: Fleet) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline:
        if not any(one.running or one.waiting for one in await loads(fleet.engines)):
            return
        await asyncio.sleep(0.05)


async def compare(
    fleet: Fleet, left: Mapping[str, float], before: Sequence[EngineCounters], *, bound_s: float
) -> Finding:
    """Compare the engines' counters with those of before; `left` has the time at which each client left."""
    finding = Finding(
        ("engine", "requests", "aborted", "ended otherwise", "aborts for others", "still running",
         "abort p50, ms", "p99, ms", "longest, ms")
    )  # fmt: skip
    told = [json.loads(await get(engine.peer, "/stand_in/clients")) for engine in fleet.engines]
    places = Counter(name for one in told for name in one["ended"] if name in left)
    # Engine of each request, by its id.
    engine_of = {rid: number for number, one in enumerate(told) for rid, _, _ in one["ended"].values()}
    now = await loads(fleet.engines)
    for number, engine in enumerate(fleet.engines):
        change = Counter(now[number].requests)
        change.subtract(before[number].requests)
        ends = {name: end for name, end in told[number]["ended"].items() if name in left}
        others = [rid for rid in told[number]["unknown_aborts"] if engine_of.get(rid, number) != number]
        delays = [at - left[name] for name, (_, how, at) in ends.items() if how == "aborted"]
        held = now[number].running + now[number].waiting
        times = [f"{1e3 * percentile(delays, percent):.1f}" for percent in (50, 99, 100)]
        otherwise = change["started"] - change["aborted"]
        row = [engine.name, change["started"], change["aborted"], otherwise, len(others), held, *times]
        finding.rows.append(row)
        finding.expect(bool(ends), f"{engine.name} had no request")
        finding.expect(not otherwise, f"{engine.name} was not told to abort {otherwise} requests")
        finding.expect(not others, f"{engine.name} was told to abort {len(others)} requests of other engines")
        finding.expect(not held, f"{engine.name} still runs {held} requests")
        late = sum(delay > bound_s for delay in delays)
        finding.expect(not late, f"{engine.name} was told of {late} aborts later than {bound_s:.3f} s")
    twice = sum(count > 1 for count in places.values())
    finding.expect(not twice, f"{twice} requests were sent to more than one engine")
    return finding
