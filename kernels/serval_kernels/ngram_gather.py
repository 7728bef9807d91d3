"""Gather of n-gram table rows for a batch: [T, tables] row ids -> [T, tables · width].

The table may be

* on the GPU;
* in pinned host memory, where the GPU reads it over the bus (unified virtual addressing: CUDA maps pinned
  memory into the address space of the GPU, so one kernel serves both and the host copies nothing);
* in host memory, pinned or not, for row ids on the CPU.

It holds either floats or eight-bit codes with one scale per row (`QuantizedTable`), decoded while reading.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from serval_kernels.checks import FLOATS, INTEGERS, check_tensor
from serval_kernels.launch import jit, launch, power_of_two, runs_on_triton, tl
from serval_kernels.row_quantization import LARGEST_CODE, QuantizedTable, dequantize_rows

NgramTable = Tensor | QuantizedTable

# Few rows: one per warp, spread over the processors. Many: four per warp, so that each has four reads in
# flight.
_MANY_ROWS = 16384
_CPU_BLOCK = 256  # rows
_CODES = {torch.int8: "int8", torch.float8_e4m3fn: "e4m3"}


def ngram_gather(row_ids: Tensor, table: NgramTable, *, dtype: torch.dtype) -> Tensor:
    """Return each token's rows side by side: [T, tables * width] on the device of `row_ids`.

    - `row_ids` int32 or int64 [T, tables]
    - `table` float32, bfloat16 or float16 [rows, width], or a `QuantizedTable` of that shape; may be some
      columns of a wider one; on the GPU or pinned if `row_ids` is on a GPU
    - `dtype` of the result: float32, bfloat16 or float16

    On a GPU an id outside the table gives zeros, since raising would need a copy to the host.

    Raises `TypeError` if a dtype is none of the above, `ValueError` if shapes do not match, a tensor is not
    contiguous or the device of `row_ids` cannot read the table, and on a CPU `IndexError` for an id outside
    the table.
    """
    compute = ngram_gather_triton if runs_on_triton(row_ids) else ngram_gather_reference
    return compute(row_ids, table, dtype=dtype)


def ngram_gather_reference(row_ids: Tensor, table: NgramTable, *, dtype: torch.dtype) -> Tensor:
    """`ngram_gather` in torch. If the table is in host memory, GPU ids are copied there and rows back."""
    _check(row_ids, table, dtype)
    if isinstance(table, Tensor):
        rows = F.embedding(row_ids.to(table.device), table).to(dtype)
    else:
        rows = _expanded_rows(row_ids.flatten(), table, dtype)
    return rows.to(row_ids.device).view(row_ids.shape[0], row_ids.shape[1] * rows.shape[-1])


def _expanded_rows(ids: Tensor, table: QuantizedTable, dtype: torch.dtype) -> Tensor:
    rows = torch.empty(len(ids), table.codes.shape[1], dtype=dtype, device=ids.device)
    # Blocks whose float32 values stay in a CPU's cache are three times as fast as all rows at once.
    block = _CPU_BLOCK if ids.device.type == "cpu" else max(len(ids), 1)
    for start in range(0, len(ids), block):
        some = slice(start, start + block)
        # Unlike indexing, index_select() does not count negative indices from the end.
        codes, scales = (part.index_select(0, ids[some].to(part.device)).to(ids.device) for part in table)
        rows[some] = dequantize_rows(QuantizedTable(codes, scales), dtype=dtype)
    return rows


def ngram_gather_triton(row_ids: Tensor, table: NgramTable, *, dtype: torch.dtype) -> Tensor:
    """`ngram_gather` in one launch."""
    _check(row_ids, table, dtype)
    values, scales = (table, None) if isinstance(table, Tensor) else table
    codes = _CODES.get(values.dtype)
    tokens, tables = row_ids.shape
    rows, width = values.shape
    gathered = torch.empty(tokens, tables * width, dtype=dtype, device=row_ids.device)
    count = tokens * tables
    if gathered.numel() == 0:
        return gathered
    block = 4 if count < _MANY_ROWS else 16
    launch(
        _gather_kernel,
        (-(-count // block),),
        row_ids.device,
        row_ids,
        # Not every GPU has instructions for float8, so the kernel decodes the bits itself.
        values.view(torch.uint8) if codes == "e4m3" else values,
        scales,
        gathered,
        count,
        rows,
        values.stride(0),
        WIDTH=width,
        WIDTH_BLOCK=power_of_two(width),
        BLOCK=block,
        CODES=codes,
        num_warps=4,
    )
    return gathered


@jit(do_not_specialize=["count", "rows"])
def _gather_kernel(  # type: ignore[no-untyped-def]
    ids_ptr,
    values_ptr,
    scales_ptr,
    out_ptr,
    count,
    rows,
    row_stride,
    WIDTH: tl.constexpr,
    WIDTH_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    CODES: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH_BLOCK)[None, :]
    wanted = place < count
    row = tl.load(ids_ptr + place, mask=wanted, other=-1).to(tl.int64)
    known = (row >= 0) & (row < rows)
    values = tl.load(
        values_ptr + row[:, None] * row_stride + column, mask=known[:, None] & (column < WIDTH), other=0
    )
    if CODES is not None:
        scale = tl.load(scales_ptr + row, mask=known, other=0.0)
        if CODES == "e4m3":
            values = _e4m3_to_float32(values)
        values = values.to(tl.float32) * scale[:, None]
    tl.store(
        out_ptr + place[:, None] * WIDTH + column,
        values.to(out_ptr.dtype.element_ty),
        mask=wanted[:, None] & (column < WIDTH),
    )


@jit()
def _e4m3_to_float32(bits):  # type: ignore[no-untyped-def]
    """Decode four exponent bits (bias 7) and three mantissa bits. Read as a float16, the same bits are 2^-8
    of the value, also below the normal range; only NaN needs a rule of its own."""
    code = bits.to(tl.int16)
    half = (((code & 0x80) << 8) | ((code & 0x7F) << 7)).to(tl.float16, bitcast=True)
    return tl.where((code & 0x7F) == 0x7F, float("nan"), half.to(tl.float32) * 256.0)


def _check(row_ids: Tensor, table: NgramTable, dtype: torch.dtype) -> None:
    check_tensor("row_ids", row_ids, shape=("T", "tables"), dtypes=INTEGERS)
    if dtype not in FLOATS:
        raise TypeError(f"dtype must be one of {list(FLOATS)}, got {dtype!r}.")
    shape = ("rows", "width")
    if isinstance(table, Tensor):
        check_tensor("table", table, shape=shape, dtypes=FLOATS, contiguity="rows")
        _check_readable("table", table, row_ids.device)
    else:
        check_tensor("table.codes", table.codes, shape=shape, dtypes=tuple(LARGEST_CODE), contiguity="rows")
        rows = table.codes.shape[0]
        check_tensor("table.scales", table.scales, shape=(rows,), dtypes=(torch.float32,))
        _check_readable("table.codes", table.codes, row_ids.device)
        _check_readable("table.scales", table.scales, row_ids.device)


def _check_readable(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device == device:
        return
    if tensor.device.type != "cpu" or device.type != "cuda":
        raise ValueError(
            f"{name} must be on {str(device)!r} like row_ids, or in pinned host memory, "
            f"got {str(tensor.device)!r}."
        )
    if not tensor.is_pinned():
        raise ValueError(
            f"{name} is in pageable host memory, which a GPU cannot read: pin it (tensor.pin_memory(), or "
            "torch.empty(..., pin_memory=True) before it is filled), or move it to the GPU."
        )
