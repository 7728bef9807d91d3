"""Two independent computations, on two streams of a GPU or one after the other."""

from collections.abc import Callable
from typing import TypeVar

import torch

Branch = TypeVar("Branch")
Trunk = TypeVar("Trunk")


def run_beside(
    stream: torch.cuda.Stream | None, branch: Callable[[], Branch], trunk: Callable[[], Trunk]
) -> tuple[Branch, Trunk]:
    """Return both results, ready on the current stream; `branch` runs on `stream`, or first if it is None.

    Streams wait for each other by events, which a CUDA graph can capture. The caller must keep the inputs of
    `branch` alive until this returns, because `trunk` could write to memory that was freed earlier. Memory
    that `branch` allocates belongs to `stream`, whose next use waits for everything issued before.
    """
    if stream is None:
        return branch(), trunk()
    main = torch.cuda.current_stream(stream.device)
    stream.wait_stream(main)
    with torch.cuda.stream(stream):
        branch_result = branch()
    trunk_result = trunk()
    main.wait_stream(stream)
    return branch_result, trunk_result
