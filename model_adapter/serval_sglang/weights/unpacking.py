"""Unpacking of packed layers that the engine holds in the model's dtype.

SGLang 0.5.23 joins the first projections of this model's attention along a dimension that is right only for
AWQ, and mistakes any `qweight` of the second one for AWQ's. So packed attention is unpacked while it is
loaded: 1.8 GB instead of 0.5 GB for LongCat-Flash-Lite, out of 20 GB. Packed experts and dense layers stay
packed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from serval_sglang.checkpoint.packed import PackedLayerError, unpack_layer
from serval_sglang.checkpoint.quantization import REQUIRED_PARTS, layer_name, layout_of

# The name in upstream's `disable_quant_module`.
ATTENTION = "self_attn"

# The packing that upstream's loading of MLA is written for.
_PACKED_AS_UPSTREAM_EXPECTS = ("awq", "awq_marlin")

# Redundant parts; they may arrive when their layer is already complete.
_DISPENSABLE = frozenset({"weight_shape", "g_idx", "weight_g_idx"})


@dataclass(frozen=True, slots=True)
class Packing:
    """Bits per weight of a checkpoint's packed layers, and the parts needed to read a layer."""

    bits: int
    required_parts: frozenset[str]


def packing_of(quant_config: Any) -> Packing | None:
    """Return the packing that SGLang's `quant_config` describes; None if it is not one that we unpack.

    Raises `ValueError` for a variant of GPTQ that we do not read.
    """
    layout = None if quant_config is None else layout_of(quant_config.get_name())
    if layout is None:
        return None
    if layout == "compressed-tensors":
        if quant_config.quant_format != "pack-quantized":
            return None
        (scheme, *_) = (scheme["weights"] for scheme in quant_config.target_scheme_map.values())
        zero_points = frozenset(() if scheme.symmetric else {"weight_zero_point"})
        return Packing(_whole(scheme.num_bits), REQUIRED_PARTS[layout] | zero_points)
    if getattr(quant_config, "desc_act", False):
        raise ValueError("quantization_config says desc_act: inputs out of order are not supported.")
    if getattr(quant_config, "checkpoint_format", "") == "gptq_v2":
        raise ValueError(
            "quantization_config says gptq_v2 for checkpoint_format: only GPTQ's first is supported."
        )
    return Packing(_whole(quant_config.weight_bits), REQUIRED_PARTS[layout])


def is_layer(layer: str) -> bool:
    """True for any layer that may be packed, for engines that unpack them all. The scales of eight-bit n-gram
    tables are named like those of a packed layer but belong to the tables."""
    return not layer.startswith("model.ngram_embeddings.")


def is_attention(layer: str) -> bool:
    """True for the checkpoint's name of an attention layer."""
    return f".{ATTENTION}." in layer


def unpacked(
    weights: Iterable[tuple[str, Tensor]], packing: Packing, *, of: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    """Yield `weights`, with each packed layer for which `of` is true as one `weight` in float32.

    The parts of a layer may be far apart; they are kept until the layer is complete. Raises
    `PackedLayerError` if a layer's parts do not fit each other or one is still absent at the end.
    """
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights:
        layer = layer_name(name)
        part = name.removeprefix(f"{layer}.")
        if layer == name or part == "weight" or not of(layer):
            yield name, tensor
            continue
        parts = waiting.setdefault(layer, {})
        parts[part] = tensor
        if packing.required_parts <= parts.keys():
            yield f"{layer}.weight", unpack_layer(waiting.pop(layer), bits=packing.bits)
    incomplete = [layer for layer, parts in waiting.items() if not parts.keys() <= _DISPENSABLE]
    if incomplete:
        needed = ", ".join(sorted(packing.required_parts))
        raise PackedLayerError(f"{len(incomplete)} packed layers lack some of {needed}: {incomplete[:20]}.")


def require_loadable_attention(kv_b_proj: Any, quant_config: Any) -> None:
    """Raise `ValueError` if attention is packed so that SGLang 0.5.23 would load it wrongly or not at all.

    `LongcatFlashForCausalLM.post_load_weights` of srt/models/longcat_flash.py mistakes any `qweight` for
    AWQ's packing, and otherwise needs a `weight`. Layers unpacked here have one.
    """
    if hasattr(kv_b_proj, "weight") or quant_config.get_name() in _PACKED_AS_UPSTREAM_EXPECTS:
        return
    raise ValueError(
        f"this checkpoint packs its attention layers by {quant_config.get_name()!r}, which SGLang 0.5.23 "
        "cannot load for this model: its answers would be wrong. Use a copy in bfloat16 or FP8, or one that "
        "compressed-tensors, GPTQ, AutoRound or AWQ has packed."
    )


def _whole(bits: int) -> int:
    if 32 % bits:
        raise ValueError(f"weights of {bits} bits do not fill an integer: 2, 4 and 8 are supported.")
    return bits
