"""Rotary position embedding with YaRN, on interleaved pairs; sparse attention's indexer pairs halves.

Sources: RoFormer (arXiv:2104.09864); YaRN (arXiv:2309.00071) in the form of DeepSeek-V3 and of transformers'
`_compute_yarn_parameters`, whose correction range is rounded outwards to whole dimensions.
"""

import math

import torch
from torch import Tensor

from serval_sglang.config import LongcatConfig


def inverse_frequencies(config: LongcatConfig, *, dtype: torch.dtype) -> Tensor:
    """Return angles per position [rope_dim / 2]: fast dimensions as trained, slow ones divided by YaRN's
    factor."""
    dim = config.qk_rope_head_dim
    exponent = torch.arange(0, dim, 2, dtype=dtype) / dim
    trained = 1.0 / config.rope_theta**exponent
    yarn = config.rope_scaling
    if yarn is None:
        return trained

    def dimension_turning(turns: float) -> float:
        """Return the (fractional) dimension that makes `turns` turns within the original context."""
        wavelength_ratio = yarn.original_max_position_embeddings / (turns * 2 * math.pi)
        return dim * math.log(wavelength_ratio) / (2 * math.log(config.rope_theta))

    low = max(math.floor(dimension_turning(yarn.beta_fast)), 0)
    high = min(math.ceil(dimension_turning(yarn.beta_slow)), dim - 1)
    width = high - low if high != low else 0.001
    interpolated = ((torch.arange(dim // 2, dtype=dtype) - low) / width).clamp(0, 1)
    return trained * (1 - interpolated) + trained / yarn.factor * interpolated


def rotation(positions: Tensor, config: LongcatConfig, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Map `positions` [T] to cos and sin, each [T, rope_dim / 2] in `dtype`."""
    frequencies = inverse_frequencies(config, dtype=dtype).to(positions.device)
    angles = positions[..., None].to(dtype) * frequencies
    return angles.cos() * config.rope_amplitude, angles.sin() * config.rope_amplitude


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_2j, x_2j+1) of the last dimension by angle j; pairs stay in place."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_j, x_j+half) of the last dimension by angle j; pairs stay in place."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
