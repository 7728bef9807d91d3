"""Calls that a CUDA graph replays, as the engine's decode steps do; without a GPU, plain calls."""

from collections.abc import Callable

import torch
from torch import Tensor


def captured(call: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Return a function that replays `call` from a CUDA graph on `device` and returns its result.

    `call` reads and updates tensors at fixed addresses. It runs once before the capture, which compiles its
    kernels, and it is recorded, but not run, by the capture.
    """
    if device.type == "cpu":
        return call
    call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def how(device: torch.device) -> str:
    """Return the words for a report."""
    return "from a CUDA graph" if device.type == "cuda" else "without a graph"
