"""Block-wise FP8: linear layers as float8_e4m3fn with a float32 scale for each block of 128 x 128 weights.

This is the format of Meituan's LongCat-Flash-Lite-FP8 (DeepSeek-V3, arXiv:2412.19437, section 3.3.2):
weight = code · scale, with the scale named `weight_scale_inv`. Embeddings, n-gram tables and their
projections, norms, router and output head are not quantised.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from serval_sglang.checkpoint.parts import Part, part_of

BLOCK = (128, 128)

# As in the config.json of the released copy.
QUANTIZATION_CONFIG: Mapping[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": list(BLOCK),
}

SCALE_SUFFIX = ".weight_scale_inv"

_QUANTIZED_PARTS = frozenset({Part.ATTENTION, Part.DENSE_MLPS, Part.EXPERTS})
_LARGEST_CODE = torch.finfo(torch.float8_e4m3fn).max


def is_quantized_layer(tensor_name: str) -> bool:
    """True if a released FP8 copy stores this tensor in 8 bit."""
    return part_of(tensor_name) in _QUANTIZED_PARTS


def quantize_linear_layers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state_dict` with the weights of linear layers in FP8, each followed by its scales."""
    quantized = {}
    for name, tensor in state_dict.items():
        if is_quantized_layer(name):
            scale_name = name.removesuffix(".weight") + SCALE_SUFFIX
            quantized[name], quantized[scale_name] = quantize_blocks(tensor)
        else:
            quantized[name] = tensor
    return quantized


def dequantize_linear_layers(
    state_dict: Mapping[str, Tensor], block: tuple[int, int] = BLOCK
) -> dict[str, Tensor]:
    """Return the inverse in float32: weights that have scales are multiplied by them, and scales removed."""
    weights = {name: tensor for name, tensor in state_dict.items() if not name.endswith(SCALE_SUFFIX)}
    for name in state_dict.keys() - weights.keys():
        weight_name = name.removesuffix(SCALE_SUFFIX) + ".weight"
        if weight_name in weights:
            weights[weight_name] = dequantize_blocks(weights[weight_name], state_dict[name], block)
    return weights


def quantize_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Map [out, in] to float8_e4m3fn [out, in] and float32 scales [ceil(out / 128), ceil(in / 128)]."""
    rows, columns = weight.shape
    # Blocks at the edges are padded with zeros, which do not change their largest magnitude.
    padded = pad(weight.float(), (0, -columns % BLOCK[1], 0, -rows % BLOCK[0]))
    largest = padded.abs().unfold(0, BLOCK[0], BLOCK[0]).unfold(1, BLOCK[1], BLOCK[1]).amax((2, 3))
    scales = largest / _LARGEST_CODE
    # A block of zeros, or of numbers so small that their scale is 0 in float32, becomes zeros.
    scales = torch.where(scales > 0, scales, 1.0)
    # A scale that was rounded down may yield a code above the largest one, which torch clamps.
    codes = weight.float() / _spread(scales, weight.shape, BLOCK)
    return codes.to(torch.float8_e4m3fn), scales


def dequantize_blocks(codes: Tensor, scales: Tensor, block: tuple[int, int] = BLOCK) -> Tensor:
    """Return the weight in float32."""
    return codes.float() * _spread(scales, codes.shape, block)


def _spread(scales: Tensor, shape: torch.Size, block: tuple[int, int]) -> Tensor:
    """Repeat each block's scale for each of its weights."""
    rows, columns = shape
    return scales.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
