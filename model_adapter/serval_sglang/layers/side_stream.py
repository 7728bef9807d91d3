"""Two computations that do not need each other, on two streams of a GPU or one after the other."""

from collections.abc import Callable
from typing import TypeVar

import torch

Branch = TypeVar("Branch")
Trunk = TypeVar("Trunk")


def run_beside(
    stream: torch.cuda.Stream | None, branch: Callable[[], Branch], trunk: Callable[[], Trunk]
) -> tuple[Branch, Trunk]:
    """Both results, ready on the current stream; ``branch`` runs on ``stream``, or first where that is None.

    Waiting is between streams, by events, so a CUDA graph can capture it. The caller keeps what ``branch``
    reads alive until this returns: memory freed earlier could be written by ``trunk``. What ``branch`` itself
    allocates belongs to ``stream``, whose next use waits for everything issued before.
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
