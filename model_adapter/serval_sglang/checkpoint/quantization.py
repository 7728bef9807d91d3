"""Differences of quantised copies from the original: the tensors of a layer, and quantization_config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Tensors that hold values: plain or 8 bit; packed by GPTQ, AWQ and AutoRound; packed by compressed-tensors.
WEIGHT_PARTS = frozenset({"weight", "qweight", "weight_packed"})

# Tensors stored beside them by block-wise FP8; by GPTQ, AWQ and AutoRound; by compressed-tensors.
_SCALE_PARTS = frozenset(
    {"weight_scale_inv", "weight_scale", "input_scale"}
    | {"scales", "qzeros", "g_idx"}
    | {"weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale"}
)


# Layouts of packed layers (packed.py).
Layout = Literal["compressed-tensors", "gptq"]

# The parts needed to read a packed layer.
REQUIRED_PARTS: Mapping[Layout, frozenset[str]] = {
    "compressed-tensors": frozenset({"weight_packed", "weight_scale"}),
    "gptq": frozenset({"qweight", "qzeros", "scales"}),
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """The details of quantization_config that are needed to read a checkpoint.

    `weight_bits` is None if the file does not state it. `block` is the (output, input) size of the blocks
    that share a scale in `weight_scale_inv`, for methods that have blocks.
    """

    method: str
    weight_bits: int | None
    group_size: int | None
    block: tuple[int, int] | None

    def __str__(self) -> str:
        details = [
            f"{self.weight_bits} bit" if self.weight_bits else "",
            f"groups of {self.group_size}" if self.group_size else "",
            f"blocks of {self.block[0]} x {self.block[1]}" if self.block else "",
        ]
        return ", ".join([self.method, *filter(None, details)])


def read_quantization(config: Mapping[str, Any]) -> Quantization | None:
    """Read the quantisation from a config.json; None if there is none. Absent details are None."""
    stated = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(stated, Mapping):
        return None
    method = stated.get("quant_method") or "compressed-tensors"
    weights = _weight_scheme(stated)
    return Quantization(
        method=str(method),
        weight_bits=_size(weights.get("bits", weights.get("num_bits", 8 if method == "fp8" else None))),
        group_size=_size(weights.get("group_size")),
        block=_block(weights.get("weight_block_size") or weights.get("block_structure")),
    )


def layout_of(method: str) -> Layout | None:
    """Return the layout of a quantisation method, by its name in config.json or in SGLang; None if it packs
    differently or not at all."""
    if method in ("compressed-tensors", "compressed_tensors"):
        return "compressed-tensors"
    return "gptq" if method in ("gptq", "gptq_marlin", "auto-round") else None


def layer_name(tensor_name: str) -> str:
    """Remove the part from a tensor name: "a.qweight" and "a.scales" give "a"; other names are unchanged."""
    layer, _, part = tensor_name.rpartition(".")
    return layer if part in WEIGHT_PARTS | _SCALE_PARTS else tensor_name


def holds_values(tensor_name: str) -> bool:
    """True if the tensor holds a layer's values, False if it only describes how to read them."""
    return tensor_name.rpartition(".")[2] not in _SCALE_PARTS


def _weight_scheme(stated: Mapping[str, Any]) -> Mapping[str, Any]:
    """Find the weight scheme, which compressed-tensors puts in a group; copies of this model have one."""
    groups = stated.get("config_groups")
    if not isinstance(groups, Mapping):
        return stated
    schemes = [group.get("weights") for group in groups.values() if isinstance(group, Mapping)]
    return next((scheme for scheme in schemes if isinstance(scheme, Mapping)), {})


def _size(stated: object) -> int | None:
    # -1 means "no groups".
    return stated if isinstance(stated, int) and stated > 0 else None


def _block(stated: object) -> tuple[int, int] | None:
    match stated:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
        case _:
            return None
