"""Checks of an operation's tensors, made before anything is launched.

None reads a tensor's values, which would have to be copied from the GPU first.
"""

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

INTEGERS = (torch.int32, torch.int64)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check_tensor(
    name: str,
    tensor: Tensor,
    *,
    shape: Sequence[int | str],
    dtypes: Collection[torch.dtype],
    device: torch.device | None = None,
    contiguity: Literal["whole", "rows"] = "whole",
) -> None:
    """Check one tensor.

    `shape` holds a number where a size is fixed and a letter where it is free; a `device` of None accepts
    any; a `contiguity` of "rows" also accepts some columns of a larger matrix.

    Raises `TypeError` if the dtype is not among `dtypes`, and `ValueError` if the shape or device differs or
    the tensor is not contiguous.
    """
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be {_listed(dtypes)}, got {_dtype_name(tensor.dtype)}.")
    if tensor.dim() != len(shape) or any(
        isinstance(wanted, int) and wanted != size for wanted, size in zip(shape, tensor.shape, strict=True)
    ):
        wanted_shape = ", ".join(str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{wanted_shape}], got {list(tensor.shape)}.")
    if not (tensor.is_contiguous() or (contiguity == "rows" and tensor.stride(-1) == 1)):
        what = "contiguous" if contiguity == "whole" else "contiguous within each row"
        raise ValueError(f"{name} must be {what}, got strides {tensor.stride()}: call .contiguous() first.")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name} must be on {str(device)!r} like the others, got {str(tensor.device)!r}.")


def check_in_place(name: str, out: Tensor, inputs: Collection[Tensor]) -> None:
    """Check that `out` is one of the inputs or shares no memory with them. All are contiguous.

    Raises `ValueError` if `out` overlaps an input without being it.
    """
    start, end = out.data_ptr(), out.data_ptr() + out.nbytes
    for tensor in inputs:
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if first < end and start < last and (first, last) != (start, end):
            raise ValueError(f"{name} must be one of the inputs itself or share no memory with them.")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _listed(dtypes: Collection[torch.dtype]) -> str:
    return " or ".join(_dtype_name(dtype) for dtype in dtypes)
