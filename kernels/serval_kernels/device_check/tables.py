"""Gathering from tables of full size: on the device, halves of their columns, eight-bit codes, host memory.

Every row holds a pattern of its number and of the column, so that a wrong row, a wrong column and an offset
that has wrapped around 32 bits show.
"""

import torch
from torch import Tensor

from serval_kernels.bench.sizes import LITE
from serval_kernels.device_check.compare import require_close
from serval_kernels.device_check.replay import captured, how
from serval_kernels.ngram_embed import ngram_embed
from serval_kernels.ngram_gather import NgramTable, ngram_gather_triton
from serval_kernels.row_quantization import QuantizedTable

_PATTERN = 251  # a prime; whole numbers below 256 are exact in bfloat16
_CHUNK_ROWS = 1 << 20
_TOKENS = {"cuda": (64, 8192), "cpu": (4,)}
_EMBEDDING_ROWS = 1_000_000  # a projection of random rows: their places are checked above
_CODES = (torch.int8, torch.float8_e4m3fn)
_NAN_CODE = 0x7F


def check_device_table(device: torch.device, rows: int) -> str:
    """Compare rows of a bfloat16 table on the device, and of the second half of its columns, as at TP 2."""
    table = torch.empty(rows, LITE.width, dtype=torch.bfloat16, device=device)
    for start in range(0, rows, _CHUNK_ROWS):
        ids = torch.arange(start, min(start + _CHUNK_ROWS, rows), device=device)
        table[start : start + len(ids)] = _pattern(ids)
    for first in (0, LITE.width // 2):
        for tokens in _TOKENS[device.type]:
            _require_pattern(table[:, first:], _row_ids(rows, tokens, device), first=first)
    return f"{table.nbytes / 1e9:.1f} GB, {rows:,} rows"


def check_quantized_tables(device: torch.device, rows: int) -> str:
    """Compare rows of tables of int8 and of e4m3 codes, each with a scale for every row."""
    every = torch.arange(rows, device=device)
    scales = _scales(every)
    sizes = []
    for dtype in _CODES:
        codes = torch.empty(rows, LITE.width, dtype=dtype, device=device)
        for start in range(0, rows, _CHUNK_ROWS):
            ids = every[start : start + _CHUNK_ROWS]
            codes[start : start + len(ids)] = _codes(ids, dtype)
        table = QuantizedTable(codes, scales)
        for tokens in _TOKENS[device.type]:
            ids = _row_ids(rows, tokens, device)
            got = ngram_gather_triton(ids, table, dtype=torch.bfloat16)
            flat = ids.flatten()
            expected = _codes(flat, dtype).float() * _scales(flat)[:, None]
            require_close(f"{dtype} table, {tokens} tokens", got.view_as(expected), expected.bfloat16())
        sizes.append(f"{codes.nbytes / 1e9:.1f} GB")
        del codes, table
    return f"int8 of {sizes[0]}, e4m3 of {sizes[1]}"


def check_embedding(device: torch.device, rows: int) -> str:
    """Compare the embedding in bfloat16, from row ids to hidden states, with the mean computed in float32."""
    generator = torch.Generator(device=device).manual_seed(3)
    rows, side = min(rows, _EMBEDDING_ROWS), LITE.hidden
    table = torch.randn(rows, LITE.width, generator=generator, device=device).bfloat16()
    projection = (torch.randn(side, side, generator=generator, device=device) / side**0.5).bfloat16()
    for tokens in _TOKENS[device.type]:
        words = torch.randn(tokens, side, generator=generator, device=device).bfloat16()
        ids = _row_ids(rows, tokens, device)
        exact = (words.float() + table[ids].flatten(1).float() @ projection.float()) / (1 + LITE.tables)
        got = ngram_embed(ids, table, projection, words)
        require_close(f"embedding of {tokens} tokens", got.float(), exact, rtol=0.02, atol=0.005)
    return f"{sum(_TOKENS[device.type]):,} tokens in bfloat16"


def check_host_table(device: torch.device, rows: int) -> str:
    """Compare rows of a bfloat16 table in pinned host memory, read by a kernel that a graph replays.

    Only the rows that are read are written: filling 62.8 GB on the host would take a minute.
    """
    pinned = device.type == "cuda"
    table = torch.empty(rows, LITE.width, dtype=torch.bfloat16, pin_memory=pinned)
    for tokens in _TOKENS[device.type]:
        ids = _row_ids(rows, tokens, device)
        wanted = ids.clone()
        ids.zero_()
        gather = captured(lambda ids=ids: ngram_gather_triton(ids, table, dtype=torch.bfloat16), device)  # type: ignore[misc]
        flat = wanted.flatten().cpu()
        table[flat] = _pattern(flat)
        ids.copy_(wanted)
        require_close(
            f"host table, {tokens} tokens", gather().view(-1, LITE.width), _pattern(wanted.flatten())
        )
    place = "pinned host memory" if pinned else "host memory"
    return f"{table.nbytes / 1e9:.1f} GB in {place}, {rows:,} rows, {how(device)}"


def _row_ids(rows: int, tokens: int, device: torch.device) -> Tensor:
    """Return random row ids [tokens, tables] with the first and the last row and the borders of 2^31."""
    generator = torch.Generator(device=device).manual_seed(2)
    ids = torch.randint(rows, (tokens, LITE.tables), generator=generator, device=device)
    # Rows around which an element or a byte offset passes 2^31 or 2^32.
    borders = [(1 << power) // LITE.width + d for power in (30, 31, 32) for d in (-1, 0)]
    edges = torch.tensor([0, rows - 1, *(row for row in borders if row < rows)], device=device)
    ids.view(-1)[: len(edges)] = edges
    return ids


def _pattern(ids: Tensor) -> Tensor:
    """Return the content of rows `ids` [N] of a bfloat16 table: [N, width]."""
    columns = torch.arange(LITE.width, device=ids.device)
    return ((ids[:, None] * 7 + columns) % _PATTERN).bfloat16()


def _codes(ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the content of rows `ids` [N] of a table of codes: [N, width]."""
    values = _pattern(ids).to(torch.int16)
    if dtype == torch.int8:
        return (values - 125).to(torch.int8)
    return values.masked_fill(values == _NAN_CODE, 0).to(torch.uint8).view(dtype)


def _scales(ids: Tensor) -> Tensor:
    """Return powers of two [N], so that every product is exact."""
    return torch.exp2(-(ids % 3).float())


def _require_pattern(table: NgramTable, ids: Tensor, *, first: int) -> None:
    got = ngram_gather_triton(ids, table, dtype=torch.bfloat16)
    expected = _pattern(ids.flatten())[:, first:]
    require_close(f"columns from {first}, {len(ids)} tokens", got.view_as(expected), expected)
