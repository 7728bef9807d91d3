"""Format of a quantised table: eight bits per value, one scale per row.

value = scale · code, with scale = max|row| / (largest code). Codes are int8 (-127..127, evenly spaced) or
float8_e4m3fn (up to ±448, finer near zero). Rows are read whole, so a row is the natural unit of a scale: one
fetch brings everything, and no row suffers from the range of another.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from serval_kernels.checks import FLOATS, check_tensor

LARGEST_CODE = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


class QuantizedTable(NamedTuple):
    """A table of eight-bit rows. Codes and scales may lie in different places."""

    codes: Tensor  # int8 or float8_e4m3fn [rows, width]
    scales: Tensor  # float32 [rows]


def quantize_rows(rows: Tensor, dtype: torch.dtype) -> QuantizedTable:
    """Quantise `rows` (float32, bfloat16 or float16 [R, width]) to codes of `dtype`, int8 or float8_e4m3fn.

    Raises `TypeError` for another dtype, and `ValueError` if `rows` holds infinity or NaN, which no scale can
    represent.
    """
    if dtype not in LARGEST_CODE:
        raise TypeError(f"dtype must be one of {list(LARGEST_CODE)}, got {dtype!r}.")
    check_tensor("rows", rows, shape=("R", "width"), dtypes=FLOATS)
    exact = rows.float()
    largest = exact.abs().amax(dim=1) if exact.numel() else exact.new_zeros(exact.shape[0])
    if not bool(largest.isfinite().all()):
        raise ValueError("rows must be finite, got infinity or NaN.")
    scales = largest / LARGEST_CODE[dtype]
    # A row of zeros, or of numbers so small that their scale is 0 in float32, becomes zeros.
    scaled = torch.where(scales[:, None] > 0, exact / scales[:, None], 0.0)
    # Dividing by a rounded scale may exceed the largest code, and float8 has no infinity to saturate to.
    scaled = scaled.clamp(-LARGEST_CODE[dtype], LARGEST_CODE[dtype])
    return QuantizedTable((scaled.round() if dtype == torch.int8 else scaled).to(dtype), scales)


def dequantize_rows(table: QuantizedTable, *, dtype: torch.dtype) -> Tensor:
    """Return rows [R, width] in `dtype`, computed in float32 and rounded once."""
    return (table.codes.float() * table.scales[:, None]).to(dtype)
