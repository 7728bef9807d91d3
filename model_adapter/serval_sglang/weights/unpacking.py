"""Packed layers of a checkpoint that the engine holds unpacked, in the model's dtype.

SGLang 0.5.23 joins the first projections of this model's attention along a dimension that is wrong for all
packings but AWQ's, and takes any ``qweight`` of its second one for AWQ's. So packed attention is unpacked
while it is loaded: 1.8 GB instead of 0.5 GB of LongCat-Flash-Lite, of 20 GB. Packed experts and dense layers
stay packed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from serval_sglang.checkpoint.packed import PackedLayerError, unpack_layer
from serval_sglang.checkpoint.quantization import REQUIRED_PARTS, layer_name, layout_of

# As upstream's `disable_quant_module` names it.
ATTENTION = "self_attn"

# Of the methods that pack several weights into an integer, the one upstream's loading of MLA is written for.
_PACKED_AS_UPSTREAM_EXPECTS = ("awq", "awq_marlin")

# Parts that say again what others say; they may come when their layer is whole already.
_DISPENSABLE = frozenset({"weight_shape", "g_idx", "weight_g_idx"})


@dataclass(frozen=True, slots=True)
class Packing:
    """How a checkpoint packs layers, and the parts a layer cannot be read without."""

    bits: int
    required_parts: frozenset[str]


def packing_of(quant_config: Any) -> Packing | None:
    """The packing that SGLang's ``quant_config`` stands for; None if there is none that we unpack.

    Raises:
        ValueError: a variant of GPTQ's that we do not read.
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
    """Any that may be packed, for engines that keep none so. The scales of n-gram tables in eight bits are
    named like a packed layer's, and belong to the tables."""
    return not layer.startswith("model.ngram_embeddings.")


def is_attention(layer: str) -> bool:
    """Whether a layer, by its name in the checkpoint, is one of attention's."""
    return f".{ATTENTION}." in layer


def unpacked(
    weights: Iterable[tuple[str, Tensor]], packing: Packing, *, of: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    """``weights`` with the parts of the packed layers ``of`` as one ``weight`` each, in float32.

    Parts of a layer may be far from one another: those that wait for others are held.

    Raises:
        PackedLayerError: a layer's parts do not fit each other, or one is absent in the end.
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
    """Refuse packed attention that SGLang 0.5.23 would load wrongly or not at all.

    In `LongcatFlashForCausalLM` of srt/models/longcat_flash.py `post_load_weights` takes whatever is called
    ``qweight`` for AWQ's packing, and else needs a ``weight``. What is unpacked here has one.

    Raises:
        ValueError: the attention is packed in another way than these.
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
