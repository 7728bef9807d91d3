"""The device of kernels in tests: a GPU, or the CPU under Triton's interpreter (TRITON_INTERPRET=1)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from serval_kernels.launch import INTERPRETED

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")


def rounding_ulps(dtype: torch.dtype) -> float:
    """Return the largest error, in units in the last place, of a value rounded once from float32.

    Half a unit, except that Triton's interpreter truncates to bfloat16 instead of rounding (triton 3.8,
    runtime/interpreter.py, _convert_float without a rounding mode).
    """
    return 1.0 if INTERPRETED and dtype == torch.bfloat16 else 0.5


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill memory that `serval_kernels` allocates with NaN, or with ids far outside every table."""
    originals = {name: getattr(torch, name) for name in ("empty", "empty_like")}

    def poisoning(name: str) -> Any:
        def allocate(*arguments: Any, **options: Any) -> torch.Tensor:
            tensor: torch.Tensor = originals[name](*arguments, **options)
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("serval_kernels."):
                tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).min)
            return tensor

        return allocate

    with patch.multiple(torch, **{name: poisoning(name) for name in originals}):
        yield


@contextmanager
def programs_backwards() -> Iterator[None]:
    """Have the interpreter run the last program of a grid first. On a GPU the order is arbitrary anyway.

    A kernel whose programs overwrite each other may be right in one order and wrong in the other.
    """
    if not INTERPRETED:
        yield
        return
    from triton.runtime.interpreter import interpreter_builder

    forwards = interpreter_builder.set_grid_idx

    def backwards(*index: int) -> None:
        forwards(*(size - 1 - i for size, i in zip(interpreter_builder.grid_dim, index, strict=True)))

    with patch.object(interpreter_builder, "set_grid_idx", backwards):
        yield
