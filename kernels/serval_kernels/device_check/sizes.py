"""Rows of the tables that a check uses: all of LongCat-Flash-Lite's, or as many as the memory holds."""

from pathlib import Path

import torch

from serval_kernels.bench.sizes import LITE

_ROW_BYTES = 2 * LITE.width  # bfloat16
_SHARE = 0.85  # of what is free: indices, results and the allocator's rounding take the rest


def fitting_rows(device: torch.device, *, on_host: bool) -> int:
    """Return the rows of a bfloat16 table that fits beside everything else on the device, or on the host.

    On a CPU there is no table of full size, because the interpreter copies its arguments.
    """
    if device.type == "cpu":
        return 5_000
    # torch's allocator of pinned memory rounds up to a power of two.
    free = _power_of_two_below(_free_host_bytes()) if on_host else torch.cuda.mem_get_info(device)[0] * _SHARE
    return min(LITE.rows, int(free) // _ROW_BYTES)


def _free_host_bytes() -> int:
    """Return memory that can be had, the page cache included, which a checkpoint just read fills."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024


def _power_of_two_below(size: int) -> int:
    return 1 << (size.bit_length() - 1)
