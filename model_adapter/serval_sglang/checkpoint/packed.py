"""Packed linear layers, in which several weights share a 32-bit integer: reading, and writing for tests.

There are two layouts, as SGLang, vLLM and transformers read them. An integer holds `per` = 32 / bits weights,
the lowest bits first.

    ==================  ==========================  ============================
    part                compressed-tensors          GPTQ, and AutoRound in its form
    ==================  ==========================  ============================
    codes               weight_packed [out, in/per]  qweight [in/per, out]
    scales              weight_scale [out, groups]   scales [groups, out]
    zero points         weight_zero_point            qzeros [groups, out/per],
                        [out/per, groups], or none   each less one
    ==================  ==========================  ============================

A weight is (code - zero point) times the scale of its group of inputs; the default zero point is 2^(bits-1).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from serval_sglang.checkpoint.fp8 import is_quantized_layer
from serval_sglang.checkpoint.quantization import Layout, layer_name


class PackedLayerError(ValueError):
    """A packed layer follows neither layout."""


def unpack_layer(parts: Mapping[str, Tensor], *, bits: int) -> Tensor:
    """Return the weight [out, in] in float32; `parts` maps the last part of a tensor's name to the tensor.

    Raises `PackedLayerError` if a part is absent, shapes do not fit each other, or inputs are out of order.
    """
    try:
        if "weight_packed" in parts:
            codes, scales = _unpack(parts["weight_packed"], bits), parts["weight_scale"].float()
            zeros = parts.get("weight_zero_point")
            # Zero points are packed along the outputs.
            zero_points = None if zeros is None else _unpack(zeros.t(), bits).t()
        else:
            codes, scales = _unpack(parts["qweight"].t(), bits), parts["scales"].float().t()
            zero_points = _unpack(parts["qzeros"], bits).t() + 1
            _require_ordered(parts.get("g_idx"), groups=scales.shape[1])
    except KeyError as error:
        raise PackedLayerError(f"a packed layer lacks {error}; it has {sorted(parts)}.") from None
    outputs, inputs = codes.shape
    groups = scales.shape[1]
    if scales.shape[0] != outputs or inputs % groups:
        raise PackedLayerError(f"codes {list(codes.shape)} and scales {list(scales.shape)} do not fit.")
    if zero_points is None:
        zero_points = torch.full_like(codes[:, :groups], 2 ** (bits - 1))
    centred = codes.reshape(outputs, groups, -1) - zero_points[..., None]
    weight: Tensor = (centred * scales[..., None]).flatten(1)
    return weight


def pack_layer(weight: Tensor, *, layout: Layout, bits: int = 4, group: int = 32) -> dict[str, Tensor]:
    """Pack a weight [out, in], rounding symmetrically in groups of `group` inputs; return the layer's parts.

    The error is at most half a scale.
    """
    grouped = weight.float().reshape(len(weight), -1, group)
    zero = 2 ** (bits - 1)
    scales = (grouped.abs().amax(-1) / (zero - 1)).clamp(min=1e-8)
    codes = ((grouped / scales[..., None]).round() + zero).clamp(0, 2**bits - 1).int().flatten(1)
    if layout == "compressed-tensors":
        shape = torch.tensor(weight.shape, dtype=torch.int64)
        return {"weight_packed": _pack(codes, bits), "weight_scale": scales, "weight_shape": shape}
    zeros = torch.full((scales.shape[1], len(weight)), zero - 1, dtype=torch.int32)
    return {
        "qweight": _pack(codes, bits).t().contiguous(),
        "qzeros": _pack(zeros, bits),
        "scales": scales.t().contiguous(),
    }


def unpack_layers(state_dict: Mapping[str, Tensor], *, bits: int) -> dict[str, Tensor]:
    """Return `state_dict` with every packed layer as one `weight` in float32.

    Raises as `unpack_layer` does.
    """
    whole: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    holders = {layer_name(name) for name in state_dict if name.endswith((".qweight", ".weight_packed"))}
    for name, tensor in state_dict.items():
        layer = layer_name(name)
        if layer in holders:
            packed.setdefault(layer, {})[name.removeprefix(f"{layer}.")] = tensor
        else:
            whole[name] = tensor
    return whole | {f"{layer}.weight": unpack_layer(parts, bits=bits) for layer, parts in packed.items()}


def pack_layers(state_dict: Mapping[str, Tensor], *, layout: Layout, group: int) -> dict[str, Tensor]:
    """Return `state_dict` with the linear layers, the same that FP8 copies quantise, packed in four bits."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if is_quantized_layer(name):
            layer = name.removesuffix(".weight")
            parts = pack_layer(tensor, layout=layout, group=group)
            packed |= {f"{layer}.{part}": value for part, value in parts.items()}
        else:
            packed[name] = tensor
    return packed


def quantization_config(layout: Layout, *, group: int) -> dict[str, Any]:
    """Return the `quantization_config` for a copy made by `pack_layers`."""
    if layout == "gptq":
        # The form that AutoRound writes.
        form = {"packing_format": "auto_round:auto_gptq", "data_type": "int"}
        return {"quant_method": "auto-round", "bits": 4, "group_size": group, "sym": True, **form}
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
    ignored = ["lm_head", "re:.*router.*"]
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ignored,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {**weights, "dynamic": False}}},
    }


def _require_ordered(g_idx: Tensor | None, *, groups: int) -> None:
    if g_idx is None:
        return
    size = -(-len(g_idx) // groups)
    if not torch.equal(g_idx.cpu(), (torch.arange(len(g_idx)) // size).to(g_idx.dtype)):
        raise PackedLayerError("g_idx puts inputs out of order (desc_act), which is not supported.")


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """Map int32 [rows, columns / per] to int32 [rows, columns]."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=packed.device)
    codes: Tensor = (packed[..., None] >> shifts & (2**bits - 1)).flatten(1)
    return codes


def _pack(codes: Tensor, bits: int) -> Tensor:
    per = 32 // bits
    shifts = torch.arange(0, 32, bits, dtype=torch.int64)
    # Summed in 64 bits; values in the upper half of the 32-bit range become negative numbers.
    packed = (codes.long().reshape(len(codes), -1, per) << shifts).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()
