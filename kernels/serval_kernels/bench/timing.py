"""Duration of a call: on a GPU as a CUDA graph with cold caches, on a CPU in processor time.

Processor time excludes the time that other programs on a shared machine use. It equals a duration only for a
single thread, so the bench limits torch to one.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_ROUNDS = 30
_LEAST_ROUNDS = 5
_LONGEST = 10  # times the wall time asked for


@dataclass(frozen=True)
class Timing:
    """Median, 20th and 80th percentile over many calls."""

    median_s: float
    p20_s: float
    p80_s: float
    calls: int


def time_call(
    call: Callable[[], object],
    device: torch.device,
    *,
    next_input: Callable[[], object],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time `call` for `seconds` of wall time and at least 30 rounds.

    Preparing a round, which is not timed, may take many times as long as the call, so wall time is the bound.
    Slow calls get fewer rounds: they end after ten times `seconds`, with five rounds at least. `call` reads
    its input from tensors at fixed addresses and keeps its state in them; `next_input` fills them with
    another input.
    """
    once = _graph_timer(call) if device.type == "cuda" else _processor_timer(call)
    next_input()
    once()  # compiles, warms up
    taken: list[float] = []
    begin = clock()
    while _goes_on(len(taken), clock() - begin, seconds):
        next_input()
        taken.append(once())
    fifths = statistics.quantiles(taken, n=5)
    return Timing(statistics.median(taken), fifths[0], fifths[-1], len(taken))


def _goes_on(rounds: int, elapsed_s: float, seconds: float) -> bool:
    if rounds < _LEAST_ROUNDS:
        return True
    return elapsed_s < (seconds if rounds >= _ROUNDS else _LONGEST * seconds)


def _processor_timer(call: Callable[[], object]) -> Callable[[], float]:
    def once() -> float:
        begin = time.process_time()
        call()
        return time.process_time() - begin

    return once


def _graph_timer(call: Callable[[], object]) -> Callable[[], float]:
    """Return a timer that replays `call` as a CUDA graph, as a decode step runs, so that launches from Python
    do not count. It overwrites the last-level cache before each replay, because in the model all layers run
    between two uses of a table."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    cache = torch.empty(512 * 2**20, dtype=torch.uint8, device="cuda")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def once() -> float:
        cache.zero_()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    return once
