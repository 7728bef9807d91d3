"""Checkpoints on disk: config.json and safetensors files, whole or in shards. Pickle is never read.

Names and shapes of all tensors read or written are checked against the layout that the configuration
requires, and all mismatches are reported at once. Block-wise FP8 and packed layers are written and read,
eight-bit n-gram tables (quantize.py) are read. Checkpoints quantised in other ways are rejected, because
their additional tensors have unknown names.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from serval_kernels.row_quantization import LARGEST_CODE, QuantizedTable, dequantize_rows
from serval_sglang.checkpoint.files import (
    CONFIG_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    load_config,
    refuse_present_weights,
    weight_files,
    write_json,
)
from serval_sglang.checkpoint.fp8 import (
    QUANTIZATION_CONFIG,
    SCALE_SUFFIX,
    dequantize_linear_layers,
    quantize_linear_layers,
)
from serval_sglang.checkpoint.layout import (
    ALIASES,
    MTP_PREFIX,
    ROUTER_SUFFIXES,
    Shape,
    mtp_tensor_shapes,
    published_name,
    table_name,
    tensor_shapes,
    usual_name,
)
from serval_sglang.checkpoint.packed import (
    PackedLayerError,
    pack_layers,
    quantization_config,
    unpack_layers,
)
from serval_sglang.checkpoint.quantization import Layout, layout_of, read_quantization
from serval_sglang.config import LongcatConfig
from serval_sglang.reference import MtpLayer, ReferenceModel

_DTYPE_NAMES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_NAMES_SHOWN = 20
# Group size of four-bit layers: it divides the inputs of every layer of the tiny model and of Lite.
PACKED_GROUP = 16


def save_checkpoint(
    state_dict: Mapping[str, Tensor],
    config: LongcatConfig,
    directory: Path | str,
    *,
    dtype: torch.dtype,
    fp8: bool = False,
    packed: Layout | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write `state_dict` and `config` in Meituan's layout.

    - `state_dict`: every tensor of the model, MTP tensors optional
    - `dtype`: float32, bfloat16 or float16, for all tensors but the router's, which are always float32
    - `fp8`: store the linear layers in block-wise FP8 instead
    - `packed`: store them in four bits instead, in this layout
    - `max_shard_bytes`: tensors that together exceed it go into numbered shards with an index; a single
      tensor is never split, so a shard may be larger

    Raises `CheckpointError` if tensors are missing, unknown or misshapen, if `dtype` is none of the three, or
    if the directory already holds weights, which could be confused with the new ones. Raises `ValueError` if
    both `fp8` and `packed` are given.
    """
    if dtype not in _DTYPE_NAMES:
        raise CheckpointError(f"dtype must be one of {list(_DTYPE_NAMES.values())}, got {dtype!r}.")
    _check_layout({name: tuple(tensor.shape) for name, tensor in state_dict.items()}, config, "state_dict")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    refuse_present_weights(directory)

    if fp8 and packed is not None:
        raise ValueError(f"layers are stored in FP8 or packed, not both, got packed={packed!r}.")
    stored = quantize_linear_layers(state_dict) if fp8 else state_dict
    if packed is not None:
        stored = pack_layers(state_dict, layout=packed, group=PACKED_GROUP)
    shards = list(_shards(stored, dtype, max_shard_bytes))
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {published_name(name, config): _stored(name, stored[name], dtype) for name in names}
        save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
    if len(shards) > 1:
        total = sum(_stored_bytes(name, tensor, dtype) for name, tensor in stored.items())
        write_json(directory / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
    content = {**config.to_dict(), "torch_dtype": _DTYPE_NAMES[dtype]}
    if fp8:
        content["quantization_config"] = QUANTIZATION_CONFIG
    if packed is not None:
        content["quantization_config"] = quantization_config(packed, group=PACKED_GROUP)
    write_json(directory / CONFIG_FILE, content)


def load_state_dict(directory: Path | str) -> dict[str, Tensor]:
    """Load every tensor of the model under its canonical name, on CPU, without MTP.

    Tensors keep their stored dtype; block-wise FP8, packed layers and eight-bit n-gram tables become float32.

    Raises `CheckpointError` if tensors are missing, unknown or misshapen or a file is absent or damaged, and
    `ConfigError` if config.json is wrong.
    """
    directory = Path(directory)
    config = load_config(directory)
    tensors: dict[str, Tensor] = {}
    for name, tensor in _stored_tensors(directory, mtp=False):
        canonical = ALIASES.get(name, usual_name(name))
        if canonical in tensors and not torch.equal(tensors[canonical], tensor):
            raise CheckpointError(f"{directory}: {name} and {canonical} must be the same tensor, but differ.")
        tensors[canonical] = tensor
    tensors = _dequantized(tensors, directory)
    _expand_tables(tensors, config, str(directory))
    _check_layout({name: tuple(tensor.shape) for name, tensor in tensors.items()}, config, str(directory))
    return {name: tensors[name] for name in tensor_shapes(config)}


def load_mtp_layer(directory: Path | str, *, dtype: torch.dtype = torch.float32) -> MtpLayer:
    """Load the multi-token-prediction layer with weights in `dtype`, quantised ones included.

    Raises `CheckpointError` if the checkpoint has none or only a part of it, and as `load_state_dict` does.
    """
    directory = Path(directory)
    config = load_config(directory)
    required = mtp_tensor_shapes(config)
    tensors = _dequantized(dict(_stored_tensors(directory, mtp=True)), directory)
    if not tensors:
        raise CheckpointError(
            f"{directory} has no multi-token-prediction layer: no tensor's name begins with {MTP_PREFIX!r}."
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _check_shapes(shapes, required=required, known=required, where=str(directory))
    with torch.device("meta"):
        layer = MtpLayer(config)
    own = {name.removeprefix(MTP_PREFIX): _stored(name, tensor, dtype) for name, tensor in tensors.items()}
    layer.load_state_dict(own, assign=True)
    return layer.eval()


def load_reference(directory: Path | str, *, dtype: torch.dtype = torch.float32) -> ReferenceModel:
    """Load the reference model with weights in `dtype` (the router's in float32).

    Raises as `load_state_dict` does.
    """
    config = load_config(directory)
    tensors = {name: _stored(name, tensor, dtype) for name, tensor in load_state_dict(directory).items()}
    with torch.device("meta"):
        model = ReferenceModel(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _dequantized(tensors: dict[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """Return block-wise FP8 and packed layers in float32, the others as they are."""
    quantization = read_quantization(json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8")))
    if quantization is not None and quantization.method == "fp8" and quantization.block is not None:
        tensors = dequantize_linear_layers(tensors, quantization.block)
    if quantization is not None and layout_of(quantization.method) and quantization.weight_bits:
        tensors = _unpacked(tensors, quantization.weight_bits, str(directory))
    return tensors


def _unpacked(tensors: dict[str, Tensor], bits: int, where: str) -> dict[str, Tensor]:
    try:
        return unpack_layers(tensors, bits=bits)
    except PackedLayerError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _expand_tables(tensors: dict[str, Tensor], config: LongcatConfig, where: str) -> None:
    """Replace the tables' eight-bit codes with float32 values, and remove the scales."""
    for i in range(config.ngram_table_count):
        name, scale_name = table_name(i), table_name(i, part="weight_scale")
        codes = tensors.get(name)
        if codes is None or codes.dtype not in LARGEST_CODE:
            continue
        scales = tensors.pop(scale_name, None)
        if scales is None or scales.shape != codes.shape[:1]:
            found = "none" if scales is None else str(list(scales.shape))
            raise CheckpointError(
                f"{where}: {name} is in {codes.dtype} and needs {scale_name} of shape [{codes.shape[0]}], "
                f"got {found}."
            )
        tensors[name] = dequantize_rows(QuantizedTable(codes, scales), dtype=torch.float32)


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", _stored_dtype(name, tensor, dtype)).contiguous()


def _stored_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if tensor.dtype == torch.float8_e4m3fn or not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if name.endswith((*ROUTER_SUFFIXES, SCALE_SUFFIX)) else dtype


def _stored_bytes(name: str, tensor: Tensor, dtype: torch.dtype) -> int:
    return tensor.numel() * _stored_dtype(name, tensor, dtype).itemsize


def _shards(
    state_dict: Mapping[str, Tensor], dtype: torch.dtype, max_shard_bytes: int
) -> Iterator[list[str]]:
    """Yield names in order, starting a new shard before a tensor that would exceed the limit."""
    shard: list[str] = []
    size = 0
    for name, tensor in state_dict.items():
        tensor_bytes = _stored_bytes(name, tensor, dtype)
        if shard and size + tensor_bytes > max_shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += tensor_bytes
    yield shard


def _stored_tensors(directory: Path, *, mtp: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the MTP layer, or all others."""
    for file, indexed in weight_files(directory).items():
        try:
            with safe_open(directory / file, framework="pt") as shard:
                names = set(shard.keys())
                if indexed is not None and names != indexed:
                    raise CheckpointError(
                        f"{directory / file} and {INDEX_FILE} disagree on {_listed(names ^ indexed)}."
                    )
                for name in sorted(names):
                    if name.startswith(MTP_PREFIX) == mtp:
                        yield name, shard.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{directory / file} cannot be read: {error}") from error


def _check_layout(shapes: Mapping[str, Shape], config: LongcatConfig, where: str) -> None:
    required = tensor_shapes(config)
    known = {**required, **mtp_tensor_shapes(config)}
    _check_shapes(shapes, required=required, known=known, where=where)


def _check_shapes(
    shapes: Mapping[str, Shape], *, required: Mapping[str, Shape], known: Mapping[str, Shape], where: str
) -> None:
    misshapen = [
        f"{name} {shape} instead of {known[name]}"
        for name, shape in shapes.items()
        if name in known and shape != known[name]
    ]
    problems = {
        "lacks": required.keys() - shapes.keys(),
        "holds unknown": shapes.keys() - known.keys(),
        "holds misshapen": misshapen,
    }
    found = [f"it {problem} {_listed(names)}" for problem, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{where} does not fit its configuration: {'; '.join(found)}.")


def _listed(names: Collection[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMES_SHOWN} more" if len(ordered) > _NAMES_SHOWN else ""
    return ", ".join(ordered[:_NAMES_SHOWN]) + more
