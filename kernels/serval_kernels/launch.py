"""The only module that imports Triton: kernels can be defined anywhere and launched where Triton runs.

Tensors on a GPU always go to Triton, all others to torch. There is no fallback from the first to the second:
without Triton, a launch raises.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError as error:  # CPU builds of torch come without Triton
    if error.name != "triton":
        raise
    triton = tl = None

__all__ = [
    "INTERPRETED",
    "TritonMissingError",
    "jit",
    "launch",
    "power_of_two",
    "runs_on_triton",
    "tl",
    "triton_version",
]

# Triton reads this when a kernel is decorated, so it cannot change later.
INTERPRETED: bool = triton is not None and bool(triton.knobs.runtime.interpret)


class TritonMissingError(RuntimeError):
    """A tensor is on a GPU, and Triton is not installed."""


class _UnlaunchableKernel:
    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, grid: object) -> NoReturn:
        raise TritonMissingError(
            f"{self.name} runs on a GPU through Triton, which is not installed: `pip install triton`, "
            "or move the tensors to the CPU."
        )


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Apply `triton.jit(**options)`; without Triton, a launch of the kernel raises `TritonMissingError`."""

    def decorate(function: Callable[..., Any]) -> Any:
        if triton is None:
            return _UnlaunchableKernel(function.__name__)
        return triton.jit(**options)(function)

    return decorate


def runs_on_triton(tensor: Tensor) -> bool:
    """True if an operation's Triton implementation handles this tensor, False if torch's does."""
    return tensor.is_cuda


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, *arguments: Any, **options: Any) -> None:
    """Launch on `device`, which need not be the current one.

    Raises `ValueError` if `device` is not a GPU and the process does not interpret kernels
    (TRITON_INTERPRET=1).
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[grid](*arguments, **options)
    elif INTERPRETED:
        kernel[grid](*arguments, **options)
    else:
        raise ValueError(
            f"Triton kernels take tensors on a GPU, got device {str(device)!r}: call the operation itself, "
            "which uses torch there, or start Python with TRITON_INTERPRET=1 to test a kernel."
        )


def power_of_two(least: int) -> int:
    """Return the smallest power of two that is at least `least`, as the size of a Triton block must be."""
    return 1 << max(least - 1, 0).bit_length()


def triton_version() -> str:
    """Return the version for reports."""
    return "not installed" if triton is None else str(triton.__version__)
