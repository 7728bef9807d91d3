"""Rewriting a checkpoint with n-gram tables in eight bits per value and one scale per row.

Tables are processed in blocks of rows, because a table of LongCat-Flash-Lite takes 5 GB.
`embedders.{i}.weight` becomes int8 or float8_e4m3fn, `embedders.{i}.weight_scale` (float32, one per row) is
added, and config.json states the dtype under `TABLE_DTYPE_KEY`. Everything else is copied.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from serval_kernels.row_quantization import dequantize_rows, quantize_rows
from serval_sglang.checkpoint.files import (
    CONFIG_FILE,
    INDEX_FILE,
    CheckpointError,
    list_files,
    load_config,
    refuse_present_weights,
    weight_files,
    write_json,
)
from serval_sglang.checkpoint.layout import TABLE_DTYPE_KEY, table_name
from serval_sglang.checkpoint.safetensors_file import FileWriter, PlannedTensor, StoredTensor, read_header
from serval_sglang.config import LongcatConfig

BLOCK_ROWS = 65_536

_STORED_NAMES = {torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3"}
_TABLE_DTYPES = ("BF16", "F16", "F32")
_COPY_BYTES = 2**24
_NOT_COPIED = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".partial"}


@dataclass(frozen=True)
class TableError:
    """Difference between the stored and the original values of one table."""

    table: int
    rows: int
    largest: float  # max |error|
    mean: float  # mean |error|
    relative_rms: float  # sqrt( Σ error² / Σ value² )


def quantize_tables(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype,
    progress: Callable[[str], None] = lambda message: None,
) -> list[TableError]:
    """Write the checkpoint in `source` to `target` with tables of `dtype`, int8 or float8_e4m3fn.

    `progress` is called with a line for each file and each table. Returns the error of each table, in order.

    Raises `CheckpointError` if `source` cannot be read, has no n-gram embedding, lacks a table, or holds one
    of another shape, with infinity or NaN, or already in eight bits, and if `target` holds weights or has no
    room. Raises `OSError` if `target` cannot be written, and `ConfigError` if config.json is wrong.
    """
    config = load_config(source)
    if not config.has_ngrams:
        raise CheckpointError(f"{source}: this model has no n-gram tables.")
    if config.sparse_attention is not None:
        raise CheckpointError(
            f"{source}: eight-bit tables have not been compared with this model, which no GPU serves yet."
        )
    headers = _headers(source)
    tables = _tables(config, headers, source)
    plans = {file: _plan(tensors, tables, dtype) for file, (tensors, _) in headers.items()}
    _prepare(target, sum(tensor.nbytes for plan in plans.values() for tensor in plan))
    errors = []
    for file, (tensors, metadata) in headers.items():
        progress(f"{file}: {len(tensors)} tensors")
        with FileWriter(target / file, plans[file], metadata=metadata) as writer:
            _copy_others(source / file, tensors, tables, writer)
            for table in sorted(tables[name] for name in tensors.keys() & tables.keys()):
                errors.append(_quantize_table(source / file, table, dtype=dtype, writer=writer))
                progress(f"{len(errors)} of {len(tables)} n-gram tables written")
    _finish(source, target, plans, dtype)
    return sorted(errors, key=lambda row: row.table)


def _headers(source: Path) -> dict[str, tuple[dict[str, StoredTensor], dict[str, str]]]:
    try:
        return {file: read_header(source / file) for file in weight_files(source)}
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error}") from error


def _tables(
    config: LongcatConfig,
    headers: Mapping[str, tuple[Mapping[str, StoredTensor], object]],
    source: Path,
) -> dict[str, int]:
    """Map the name of each table's tensor to its number."""
    stored = {name: tensor for tensors, _ in headers.values() for name, tensor in tensors.items()}
    names = {table_name(i): i for i in range(config.ngram_table_count)}
    for name, i in names.items():
        shape = (config.ngram_table_rows(i), config.ngram_table_width)
        if name not in stored:
            raise CheckpointError(f"{source} lacks {name}: is a file missing?")
        if stored[name].dtype in _STORED_NAMES.values():
            raise CheckpointError(f"{source}: the n-gram tables are in eight bits already.")
        if stored[name].shape != shape or stored[name].dtype not in _TABLE_DTYPES:
            raise CheckpointError(
                f"{source}: {name} must be {list(shape)} in one of {', '.join(_TABLE_DTYPES)}, "
                f"got {list(stored[name].shape)} in {stored[name].dtype}."
            )
    return names


def _plan(
    tensors: Mapping[str, StoredTensor], tables: Mapping[str, int], dtype: torch.dtype
) -> list[PlannedTensor]:
    planned = []
    for name, tensor in tensors.items():
        if name in tables:
            scale_name = table_name(tables[name], part="weight_scale")
            planned.append(PlannedTensor(name, _STORED_NAMES[dtype], tensor.shape, 1))
            planned.append(PlannedTensor(scale_name, "F32", tensor.shape[:1], 4))
        else:
            planned.append(PlannedTensor(name, tensor.dtype, tensor.shape, tensor.item_bytes))
    return planned


def _prepare(target: Path, needed_bytes: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    refuse_present_weights(target)
    free = shutil.disk_usage(target).free
    if free < needed_bytes:
        raise CheckpointError(f"{target} needs {needed_bytes:,} bytes, and {free:,} are free.")


def _copy_others(
    path: Path, tensors: Mapping[str, StoredTensor], tables: Mapping[str, int], writer: FileWriter
) -> None:
    with path.open("rb") as file:
        for name, tensor in tensors.items():
            if name in tables:
                continue
            file.seek(tensor.start)
            for offset in range(0, tensor.nbytes, _COPY_BYTES):
                piece = file.read(min(_COPY_BYTES, tensor.nbytes - offset))
                writer.write(name, piece, offset=offset)


def _quantize_table(path: Path, table: int, *, dtype: torch.dtype, writer: FileWriter) -> TableError:
    name, scale_name = table_name(table), table_name(table, part="weight_scale")
    rows = width = 0
    largest = total = squares = reference_squares = 0.0
    for block in _blocks(path, name):
        try:
            quantized = quantize_rows(block, dtype)
        except ValueError as error:
            raise CheckpointError(f"{path}: {name}, rows from {rows}: {error}") from error
        width = block.shape[1]
        writer.write(name, _bytes(quantized.codes), offset=rows * width)
        writer.write(scale_name, _bytes(quantized.scales), offset=rows * quantized.scales.itemsize)
        rows += len(block)
        exact = block.double()
        off = dequantize_rows(quantized, dtype=torch.float32).double() - exact
        largest = max(largest, off.abs().max().item())
        total += off.abs().sum().item()
        squares += off.square().sum().item()
        reference_squares += exact.square().sum().item()
    return TableError(
        table=table,
        rows=rows,
        largest=largest,
        mean=total / (rows * width),
        relative_rms=math.sqrt(squares / reference_squares) if reference_squares else 0.0,
    )


def _blocks(path: Path, name: str) -> Iterator[Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            stored = file.get_slice(name)
            rows = stored.get_shape()[0]
            for start in range(0, rows, BLOCK_ROWS):
                yield stored[start : min(start + BLOCK_ROWS, rows)]
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(torch.uint8).numpy().data.cast("B")


def _finish(source: Path, target: Path, plans: Mapping[str, list[PlannedTensor]], dtype: torch.dtype) -> None:
    """Write other files, the index, and config.json last: without it the directory is not a checkpoint."""
    for file in list_files(source):
        if Path(file).suffix not in _NOT_COPIED and file not in (CONFIG_FILE, INDEX_FILE):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, target / file)
    if (source / INDEX_FILE).is_file():
        total = sum(tensor.nbytes for plan in plans.values() for tensor in plan)
        weight_map = {tensor.name: file for file, plan in plans.items() for tensor in plan}
        write_json(target / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
    content = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
    content[TABLE_DTYPE_KEY] = str(dtype).removeprefix("torch.")
    write_json(target / CONFIG_FILE, content)
