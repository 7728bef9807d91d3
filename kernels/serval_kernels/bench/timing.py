"""How long a call takes: on a GPU as a CUDA graph with cold caches, on a CPU in processor time.

Processor time leaves out what the neighbours on a shared machine take. It is a duration for one thread only,
so the bench gives torch one.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_LEAST_CALLS = 5


@dataclass(frozen=True)
class Timing:
    """Of many calls: the middle, and where the fastest and slowest fifth end."""

    median_s: float
    p20_s: float
    p80_s: float
    calls: int


def time_call(
    call: Callable[[], object], device: torch.device, *, next_input: Callable[[], object], least_s: float
) -> Timing:
    """
    Args:
        call: reads its input from, and writes its state to, tensors that stay in place.
        next_input: fills those tensors with another input; not timed.
        least_s: keep calling for at least this long.
    """
    once = _graph_timer(call) if device.type == "cuda" else _processor_timer(call)
    next_input()
    once()  # compiles, warms up
    taken: list[float] = []
    while len(taken) < _LEAST_CALLS or sum(taken) < least_s:
        next_input()
        taken.append(once())
    fifths = statistics.quantiles(taken, n=5)
    return Timing(statistics.median(taken), fifths[0], fifths[-1], len(taken))


def _processor_timer(call: Callable[[], object]) -> Callable[[], float]:
    def once() -> float:
        begin = time.process_time()
        call()
        return time.process_time() - begin

    return once


def _graph_timer(call: Callable[[], object]) -> Callable[[], float]:
    """A decode step runs from a CUDA graph, so launches from Python are not what is measured. The last-level
    cache is overwritten before each replay: between two uses of a table lie all layers of the model."""
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
