"""Checkpoints of any size that take no space: real headers in sparse files with a hole instead of weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

from serval_sglang.checkpoint.layout import ROUTER_SUFFIXES, Shape, tensor_shapes
from serval_sglang.checkpoint.parts import Part, part_of
from serval_sglang.config import LongcatConfig

# Name -> dtype, as safetensors spells it, and shape.
Stored = dict[str, tuple[str, Shape]]

LINEAR = (Part.ATTENTION, Part.DENSE_MLPS, Part.EXPERTS)

_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4, "I64": 8, "F8_E5M2": 1}


def stored_plain(config: LongcatConfig) -> Stored:
    """Return the tensors of a released bf16 checkpoint, without MTP."""
    return {
        name: ("F32" if name.endswith(ROUTER_SUFFIXES) else "BF16", shape)
        for name, shape in tensor_shapes(config).items()
    }


def stored_fp8(config: LongcatConfig) -> Stored:
    """Return the same with linear layers in FP8, with a scale for each block of 128 x 128."""
    stored: Stored = {}
    for name, (dtype, shape) in stored_plain(config).items():
        if part_of(name) in LINEAR:
            stored[name] = ("F8_E4M3", shape)
            scales = tuple((size + 127) // 128 for size in shape)
            stored[name.replace(".weight", ".weight_scale_inv")] = ("F32", scales)
        else:
            stored[name] = (dtype, shape)
    return stored


def write_header_only_checkpoint(
    directory: Path, config: LongcatConfig, tensors: Stored, **config_fields: object
) -> None:
    """Write a directory with config.json (``config_fields`` added) and one model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    write_header_only_file(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(json.dumps({**config.to_dict(), **config_fields}))


def write_header_only_file(path: Path, tensors: Mapping[str, tuple[str, Shape]]) -> None:
    """Write one sparse safetensors file of zeros."""
    entries, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * _BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
