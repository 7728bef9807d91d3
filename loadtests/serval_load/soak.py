"""Soak: a long steady load, and the growth of memory, file descriptors, tasks and slots under it."""

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from serval_load.client import Peer, get
from serval_load.programs import Program
from serval_load.workloads.arrivals import poisson
from serval_load.workloads.driver import Request, drive
from serval_load.workloads.sessions import MIXED

_SETTLE_TIMEOUT_S = 60.0
# The gateway counts its tasks four times a second, and may count one less while a watcher is at work.
_LOOKS, _LOOK_EVERY_S = 12, 0.25


@dataclass(frozen=True)
class Sample:
    """State of the gateway at one moment of the run."""

    at_s: float
    memory_mb: float
    open_files: int
    tasks: float
    in_flight: float


@dataclass(frozen=True)
class SoakResult:
    """Result of a soak. Slopes cover the last third, when caches are full and large requests have met."""

    seconds: float
    requests: int
    failed: int
    vanished: int
    memory_mb_per_hour: float
    files_per_hour: float
    tasks_per_hour: float
    memory_first_mb: float
    memory_last_mb: float
    # Resources still held after the last request, by name. Empty if all are free.
    held: dict[str, float]
    # Number of requests in the engine by the way they ended.
    engine: dict[str, int]
    samples: Sequence[Sample]

    def as_object(self) -> dict[str, object]:
        """JSON object of the result without the samples."""
        return {name: value for name, value in asdict(self).items() if name != "samples"}


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Slope per hour by least squares through (seconds, value); 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    below = sum((x - mean_x) ** 2 for x, _ in points)
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return 3600 * above / below if below else 0.0


async def soak(
    gateway: Program,
    peer: Peer,
    engine: Peer,
    *,
    seconds: float,
    per_s: float,
    every_s: float,
    kinds: Sequence[tuple[str, float]] = MIXED,
    held_elsewhere: Callable[[], Mapping[str, float]] = dict,
    log: Callable[[str], None],
) -> SoakResult:
    """Run mixed tenants, a tenth of whose clients leave early, for `seconds`; take a sample `every_s`.

    The gateway must have answered a request before, because its tasks before the load are the baseline.
    `held_elsewhere` returns resources held outside gateway and engine, by name.
    """
    source = random.Random(7)
    names, shares = [kind for kind, _ in kinds], [share for _, share in kinds]
    sessions = [
        (at, source.choices(names, shares)[0]) for at in poisson(source, per_s=per_s, seconds=seconds)
    ]
    samples: list[Sample] = []
    baseline = await _measure_baseline(gateway, peer)
    sampling = asyncio.create_task(_sample(gateway, peer, samples, every_s, log))
    try:
        requests = await drive(peer, sessions, model="stand-in", seed=7, vanish=0.1, log=lambda _: None)
    finally:
        sampling.cancel()
    held, counts = await _wait_until_free(gateway, peer, engine, baseline, held_elsewhere)
    return _result(samples, requests, held, counts)


def _result(
    samples: Sequence[Sample], requests: Sequence[Request], held: dict[str, float], counts: dict[str, int]
) -> SoakResult:
    settled = samples[len(samples) * 2 // 3 :]
    return SoakResult(
        seconds=max(request.at + request.end_s for request in requests),
        requests=len(requests),
        failed=sum(not request.complete and not request.vanished for request in requests),
        vanished=sum(request.vanished for request in requests),
        memory_mb_per_hour=slope_per_hour([(one.at_s, one.memory_mb) for one in settled]),
        files_per_hour=slope_per_hour([(one.at_s, one.open_files) for one in settled]),
        tasks_per_hour=slope_per_hour([(one.at_s, one.tasks) for one in settled]),
        memory_first_mb=samples[0].memory_mb,
        memory_last_mb=samples[-1].memory_mb,
        held=held,
        engine=counts,
        samples=samples,
    )


async def _sample(
    gateway: Program, peer: Peer, samples: list[Sample], every_s: float, log: Callable[[str], None]
) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number in itertools.count():
        metrics = await gauges(peer)
        # This request itself is in flight.
        in_flight = metrics["serval_requests_in_flight"] - 1
        one = Sample(
            loop.time() - started, gateway.memory_mb(), gateway.open_files(), metrics[TASKS], in_flight
        )
        samples.append(one)
        if number % 10 == 0:
            log(
                f"{one.at_s:.0f} s: {one.memory_mb:.1f} MB, {one.open_files} files, {one.tasks:.0f} tasks,"
                f" {in_flight:.0f} in flight"
            )
        await asyncio.sleep(every_s)


async def gauges(peer: Peer) -> dict[str, float]:
    """Values of the gateway's metrics by their text (name and labels). This request itself is in flight."""
    text = (await get(peer, "/metrics")).decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


# Gauges of resources that requests hold.
HELD = ("serval_requests_in_flight", "serval_queue_depth")
TASKS = "serval_event_loop_tasks"
# Connections to the engine, which stay open for the next requests; nothing else does.
_MOST_KEPT_FILES = 300


@dataclass(frozen=True)
class _Baseline:
    """Open files and tasks of the gateway before the load."""

    files: int
    tasks: float


async def _measure_baseline(gateway: Program, peer: Peer) -> _Baseline:
    most = 0.0
    for _ in range(_LOOKS):
        await asyncio.sleep(_LOOK_EVERY_S)
        most = max(most, await _tasks(peer))
    return _Baseline(gateway.open_files(), most)


async def _tasks(peer: Peer) -> float:
    return (await gauges(peer))[TASKS]


async def held_now(peer: Peer, engine: Peer) -> tuple[dict[str, float], dict[str, int]]:
    """Resources that gateway and engine hold, by name, and the engine's counts of ended requests."""
    told = json.loads(await get(engine, "/v1/loads"))
    load, metrics = told["loads"][0], await gauges(peer)
    held = {name: load[name] for name in ("num_running_reqs", "num_waiting_reqs", "num_used_tokens")}
    held |= {name: value for name, value in metrics.items() if name.startswith(HELD)}
    # This request itself is in flight.
    held["serval_requests_in_flight"] -= 1
    return {name: value for name, value in held.items() if value}, told["stand_in"]


async def _wait_until_free(
    gateway: Program,
    peer: Peer,
    engine: Peer,
    baseline: _Baseline,
    held_elsewhere: Callable[[], Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, int]]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SETTLE_TIMEOUT_S
    while True:
        held, counts = await held_now(peer, engine)
        more = {
            "files": gateway.open_files() - baseline.files - _MOST_KEPT_FILES,
            "tasks": await _tasks(peer) - baseline.tasks,
            **held_elsewhere(),
        }
        held |= {name: count for name, count in more.items() if count > 0}
        if not held or loop.time() > deadline:
            return held, counts
        await asyncio.sleep(0.1)
