"""Rates that this machine reaches, from which floors are computed."""

import platform
import sys
import time
from collections.abc import Callable

import torch

from serval_kernels.bench.roofline import Machine

_COPY_BYTES = {"cuda": 4 * 2**30, "cpu": 2**28}
_BUS_BYTES = 2**30
_MATRIX = {"cuda": 8192, "cpu": 1024}
_REPEATS = 5


def measure(device: torch.device, *, dtype: torch.dtype) -> Machine:
    """Measure a large copy (counting read and write), a copy from pinned memory, and a large matrix product
    in `dtype`."""
    kind = device.type
    return Machine(
        name=name(device),
        device_bytes_per_s=_copied_bytes_per_s(device, _COPY_BYTES[kind]),
        host_bytes_per_s=_bus_bytes_per_s(device) if kind == "cuda" else None,
        flops_per_s=_product_flops_per_s(device, _MATRIX[kind], dtype),
    )


def give_back_memory(device: torch.device) -> None:
    """Return freed memory to the system: torch keeps it, and the next table may not fit beside it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        if hasattr(torch.accelerator, "empty_host_cache"):  # pinned memory; new in torch 2.12
            torch.accelerator.empty_host_cache()
        else:
            print(
                "this torch keeps pinned memory: measure each host table in its own run (--resume)",
                file=sys.stderr,
            )


def _copied_bytes_per_s(device: torch.device, total: int) -> float:
    source = torch.empty(total // 2, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return total / _best_s(lambda: target.copy_(source), device)


def _product_flops_per_s(device: torch.device, side: int, dtype: torch.dtype) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _best_s(lambda: left @ right, device)


def _bus_bytes_per_s(device: torch.device) -> float:
    source = torch.empty(_BUS_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(_BUS_BYTES, dtype=torch.uint8, device=device)
    return _BUS_BYTES / _best_s(lambda: target.copy_(source, non_blocking=True), device)


def _best_s(call: Callable[[], object], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    best = float("inf")
    for _ in range(_REPEATS + 1):
        _wait(device)
        begin = clock()
        call()
        _wait(device)
        best = min(best, clock() - begin)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    return f"{model}, one thread of {len(models)}"
