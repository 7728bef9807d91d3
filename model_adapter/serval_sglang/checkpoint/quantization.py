"""How quantised copies differ from the original: the tensors of a layer, and quantization_config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# What holds the values: as they are or in 8 bit; packed by GPTQ, AWQ and AutoRound; by compressed-tensors.
WEIGHT_PARTS = frozenset({"weight", "qweight", "weight_packed"})

# What a layer may store beside them (block-wise FP8; GPTQ, AWQ and AutoRound; compressed-tensors).
_SCALE_PARTS = frozenset(
    {"weight_scale_inv", "weight_scale", "input_scale"}
    | {"scales", "qzeros", "g_idx"}
    | {"weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale"}
)


# How layers that share integers are laid out (packed.py).
Layout = Literal["compressed-tensors", "gptq"]

# The parts that a packed layer cannot be read without.
REQUIRED_PARTS: Mapping[Layout, frozenset[str]] = {
    "compressed-tensors": frozenset({"weight_packed", "weight_scale"}),
    "gptq": frozenset({"qweight", "qzeros", "scales"}),
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantization_config of a config.json, as far as a reader of the checkpoint needs it.

    ``weight_bits`` is None where the file does not say. ``block`` is the (output, input) size of the blocks
    that share a scale in ``weight_scale_inv``, for methods that have blocks.
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
    """The quantisation that a config.json names; None if it names none. Absent details are None."""
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
    """The layout of a quantisation method, by its name in config.json or SGLang's; None for one that packs
    otherwise, or not at all."""
    if method in ("compressed-tensors", "compressed_tensors"):
        return "compressed-tensors"
    return "gptq" if method in ("gptq", "gptq_marlin", "auto-round") else None


def layer_name(tensor_name: str) -> str:
    """The name without its part: "a.qweight" and "a.scales" are of layer "a"; other names are whole."""
    layer, _, part = tensor_name.rpartition(".")
    return layer if part in WEIGHT_PARTS | _SCALE_PARTS else tensor_name


def holds_values(tensor_name: str) -> bool:
    """Whether the tensor is one with a layer's values, not one beside it that says how to read them."""
    return tensor_name.rpartition(".")[2] not in _SCALE_PARTS


def _weight_scheme(stated: Mapping[str, Any]) -> Mapping[str, Any]:
    """compressed-tensors files its schemes in groups, of which copies of this model have one."""
    groups = stated.get("config_groups")
    if not isinstance(groups, Mapping):
        return stated
    schemes = [group.get("weights") for group in groups.values() if isinstance(group, Mapping)]
    return next((scheme for scheme in schemes if isinstance(scheme, Mapping)), {})


def _size(stated: object) -> int | None:
    # -1 stands for "no groups".
    return stated if isinstance(stated, int) and stated > 0 else None


def _block(stated: object) -> tuple[int, int] | None:
    match stated:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
        case _:
            return None
