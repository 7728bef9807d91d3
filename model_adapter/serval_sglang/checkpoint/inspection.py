"""Inspection of a checkpoint directory by config.json and the headers of its safetensors files."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serval_sglang.checkpoint.files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    list_files,
    unread_weight_files,
    weight_files,
)
from serval_sglang.checkpoint.headers import TensorHeader, read_headers
from serval_sglang.checkpoint.layout import (
    ALIASES,
    MTP_PREFIX,
    TABLE_DTYPE_KEY,
    Shape,
    mtp_tensor_shapes,
    tensor_shapes,
    usual_name,
)
from serval_sglang.checkpoint.parts import Part, part_of
from serval_sglang.checkpoint.quantization import Quantization, holds_values, layer_name, read_quantization
from serval_sglang.checkpoint.safety import UnsafeFile, unsafe_files
from serval_sglang.config import LongcatConfig
from serval_sglang.siblings import ARCHITECTURES

# Without these the engine has no tokenizer.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSize:
    """Size of one part. `parameters` counts weights in any format, but neither scales nor packed shapes."""

    tensors: int
    parameters: int
    size_bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Findings about a directory.

    - `config`: None if config.json is absent or wrong; `problems` then reports that, and tensors are assigned
      by their names alone
    - `parts`: the parts that are present, in the order of `Part`
    - `missing`, `unknown`: names of tensors; `misshapen`: names with the shapes found and expected
    - `table_dtype`: dtype of n-gram tables in eight bits, which `quantization` does not cover
    - `lacks`: files that serving needs beside the weights
    - `files`: safetensors files that belong to the checkpoint
    - `unread`: safetensors files that do not, such as adapters, and that the engine does not read
    - `problems`: other errors, in sentences
    - `unsafe`: files that may run code in other tools
    """

    architecture: str | None
    config: LongcatConfig | None
    quantization: Quantization | None
    table_dtype: str | None
    files: int
    parts: Mapping[Part, PartSize]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    misshapen: tuple[str, ...]
    unread: tuple[str, ...]
    problems: tuple[str, ...]
    lacks: tuple[str, ...]
    unsafe: tuple[UnsafeFile, ...]

    @property
    def is_foreign(self) -> bool:
        """True if config.json names another architecture, whose weights are not compared with anything."""
        return _is_foreign(self.architecture)

    @property
    def mtp(self) -> Literal["complete", "partial", "none"] | None:
        """Presence of the multi-token-prediction layer, which a checkpoint may omit as a whole; None if
        config.json does not tell what belongs to it."""
        if Part.MTP not in self.parts:
            return "none"
        if self.config is None:
            return None
        return "partial" if any(name.startswith(MTP_PREFIX) for name in self.missing) else "complete"

    @property
    def is_complete(self) -> bool:
        """True if the weights are exactly those that config.json requires."""
        return not (self.missing or self.unknown or self.misshapen or self.problems)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Shapes by layer name: of required layers, of the MTP layer's, and of all known ones."""

    required: Mapping[str, Shape]
    mtp: Mapping[str, Shape]
    known: Mapping[str, Shape]


def inspect_checkpoint(directory: Path) -> Inspection:
    """Read config.json and the headers of all safetensors files, without loading weights or code.

    The weights of another architecture are not compared with anything; one problem names it.

    Raises `CheckpointError` if the directory's files cannot be listed.
    """
    files = list_files(directory)
    problems: list[str] = []
    raw = _read_config(directory, problems)
    architecture = _architecture(raw)
    is_foreign = _is_foreign(architecture)
    if is_foreign:
        problems.append(
            f"{CONFIG_FILE} is that of a {architecture}; Serval serves {', '.join(ARCHITECTURES)}"
        )
    config = None if is_foreign else _parse_config(raw, problems)
    quantization = read_quantization(raw)
    unread = unread_weight_files(directory, files)
    weights = [file for file in files if file.endswith(".safetensors") and file not in unread]
    tensors = {} if is_foreign else _stored_tensors(directory, weights, problems)
    # Eight-bit tables have scales even if the rest is not quantised.
    in_layers = quantization is not None or TABLE_DTYPE_KEY in raw
    layout = None if config is None else _layout(config, is_quantized=in_layers)
    unknown: Collection[str] = ()
    if layout is not None:
        unknown = [name for name in tensors if _layer(name, in_layers=in_layers) not in layout.known]
    return Inspection(
        architecture=architecture,
        config=config,
        quantization=quantization,
        table_dtype=None if raw.get(TABLE_DTYPE_KEY) is None else str(raw[TABLE_DTYPE_KEY]),
        files=len(weights),
        parts=_part_sizes(tensors, layout, frozenset(unknown)),
        missing=() if layout is None else tuple(_missing(tensors, layout, in_layers=in_layers)),
        unknown=tuple(unknown),
        misshapen=()
        if layout is None
        else tuple(_misshapen(tensors, layout, quantization, in_layers=in_layers)),
        unread=tuple(unread),
        problems=tuple(problems),
        lacks=tuple(_lacking(files)),
        unsafe=tuple(unsafe_files(directory, files)),
    )


def _read_config(directory: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        raw = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{CONFIG_FILE} cannot be read: {error}")
        return {}
    if not isinstance(raw, dict):
        problems.append(f"{CONFIG_FILE} must be a JSON object, got {type(raw).__name__}")
        return {}
    return raw


def _architecture(raw: Mapping[str, Any]) -> str | None:
    architectures = raw.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else None


def _is_foreign(architecture: str | None) -> bool:
    return architecture is not None and architecture not in ARCHITECTURES


def _lacking(files: Collection[str]) -> Iterator[str]:
    yield from (name for name in TOKENIZER_FILES if name not in files)
    if not {"chat_template.jinja", "tokenizer_config.json"} & set(files):
        yield "chat_template.jinja, or a tokenizer_config.json with a chat template"


def _parse_config(raw: Mapping[str, Any], problems: list[str]) -> LongcatConfig | None:
    if not raw:
        return None
    try:
        return LongcatConfig.from_dict(raw)
    except ValueError as error:
        problems.append(f"{CONFIG_FILE}: {error}")
        return None


def _stored_tensors(directory: Path, files: Collection[str], problems: list[str]) -> dict[str, TensorHeader]:
    """Return headers by tensor name: of the files in the index or, without a usable index, of all `files`."""
    indexed: Mapping[str, frozenset[str] | None]
    try:
        indexed = weight_files(directory)
    except CheckpointError as error:
        problems.append(str(error))
        indexed = dict.fromkeys(files)
    for file in sorted(set(files) - indexed.keys()):
        problems.append(f"{file} is beside {WEIGHTS_FILE}, and without an index the engine loads it too")
    tensors: dict[str, TensorHeader] = {}
    for file, names in sorted(indexed.items()):
        if file not in files:
            problems.append(f"{file} is in the index, but not in the directory")
            continue
        try:
            headers = {header.name: header for header in read_headers(directory / file)}
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if names is not None and names != headers.keys():
            odd = sorted(names ^ headers.keys())
            problems.append(f"{file} and the index disagree on {len(odd)} tensors, of which {odd[0]}")
        twice = sorted(tensors.keys() & headers.keys())
        if twice:
            problems.append(f"{len(twice)} tensors are in {file} and in another, of which {twice[0]}")
        tensors |= headers
    return dict(sorted(tensors.items()))


def _layout(config: LongcatConfig, *, is_quantized: bool) -> _Layout:
    required, mtp = tensor_shapes(config), mtp_tensor_shapes(config)
    known = {**required, **mtp}
    for alias, name in ALIASES.items():
        known[alias] = required[name]
    if is_quantized:
        required = {layer_name(name): shape for name, shape in required.items()}
        mtp = {layer_name(name): shape for name, shape in mtp.items()}
        known = {layer_name(name): shape for name, shape in known.items()}
    return _Layout(required, mtp, known)


def _layer(tensor_name: str, *, in_layers: bool) -> str:
    name = usual_name(tensor_name)
    return layer_name(name) if in_layers else name


def _missing(tensors: Mapping[str, TensorHeader], layout: _Layout, *, in_layers: bool) -> list[str]:
    """List layers without values, and missing scales of 8-bit floats. The MTP layer may be absent, but only
    as a whole."""
    present = {_layer(name, in_layers=in_layers) for name in tensors if holds_values(name)}
    present |= {_layer(ALIASES[name], in_layers=in_layers) for name in ALIASES.keys() & tensors.keys()}
    scales = [
        f"{layer}.weight_scale_inv"
        for name, tensor in tensors.items()
        if tensor.dtype.startswith("F8_") and (layer := layer_name(name)) != name
        if not {f"{layer}.weight_scale_inv", f"{layer}.weight_scale"} & tensors.keys()
    ]
    required = layout.required.keys() | (layout.mtp.keys() if layout.mtp.keys() & present else set())
    return sorted(required - present) + scales


def _misshapen(
    tensors: Mapping[str, TensorHeader],
    layout: _Layout,
    quantization: Quantization | None,
    *,
    in_layers: bool,
) -> list[str]:
    """List weights and block scales of the wrong shape. Packed layers are not checked."""
    block = None if quantization is None else quantization.block
    found = []
    for name, tensor in tensors.items():
        layer, part = _layer(name, in_layers=in_layers), name.rpartition(".")[2]
        expected = layout.known.get(layer)
        if expected is None:
            continue
        if part == "weight_scale_inv" and block is not None and len(expected) == 2:
            expected = (-(-expected[0] // block[0]), -(-expected[1] // block[1]))
        elif layer != name and part != "weight":
            continue
        if tensor.shape != expected:
            found.append(f"{name} {tensor.shape} instead of {expected}")
    return found


def _part_sizes(
    tensors: Mapping[str, TensorHeader], layout: _Layout | None, unknown: Collection[str]
) -> dict[Part, PartSize]:
    members: dict[Part, list[str]] = defaultdict(list)
    for name in tensors:
        members[Part.UNKNOWN if name in unknown else part_of(name)].append(name)
    return {
        part: PartSize(
            tensors=len(members[part]),
            parameters=sum(_parameters(name, tensors, layout) for name in members[part]),
            size_bytes=sum(tensors[name].size_bytes for name in members[part]),
            dtypes=tuple(sorted({tensors[name].dtype for name in members[part]})),
        )
        for part in Part
        if part in members
    }


def _parameters(name: str, tensors: Mapping[str, TensorHeader], layout: _Layout | None) -> int:
    """Count the elements of the unpacked weight; 0 for scales and the like, and for repeated tensors."""
    if not holds_values(name) or ALIASES.get(name) in tensors:
        return 0
    shape = None if layout is None else layout.known.get(layer_name(usual_name(name)))
    return tensors[name].elements if shape is None else math.prod(shape)
