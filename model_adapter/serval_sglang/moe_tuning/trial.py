"""One launch: compared with the definition, then timed."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from serval_kernels.bench.timing import time_call
from serval_sglang.moe_tuning.experts import largest_error
from serval_sglang.moe_tuning.search import Launch

_SECONDS = 0.1


def checked_seconds(
    call: Callable[[], Tensor],
    expected: Tensor,
    device: torch.device,
    *,
    largest: float,
    launch: Launch,
) -> float | None:
    """Return the median seconds of `call`; None, and the reason on stderr, if it fails or is wrong."""
    try:
        error = largest_error(call(), expected)
        if not error <= largest:
            print(f"rejected: error {error:.3g}: {dict(launch)}", file=sys.stderr, flush=True)
            return None
        return time_call(call, device, next_input=lambda: None, seconds=_SECONDS).median_s
    except Exception as error:  # noqa: BLE001  # too much shared memory, or whatever else the compiler refuses
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"rejected: {reason}: {dict(launch)}", file=sys.stderr, flush=True)
        return None
