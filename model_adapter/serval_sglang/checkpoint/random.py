"""Random weights that exercise every part of the model, and configurations small enough for tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from serval_sglang.checkpoint.layout import Shape, tensor_shapes
from serval_sglang.config import LongcatConfig
from serval_sglang.known_configs import TINY


def tiny_config(**overrides: Any) -> LongcatConfig:
    """``TINY`` with some fields changed. Raises ConfigError where that makes no model."""
    return replace(TINY, **overrides)


def random_state_dict(config: LongcatConfig, *, seed: int) -> dict[str, Tensor]:
    """Float32 weights for every tensor of ``config``, the same for the same seed and configuration.

    Scaled so that each part moves the logits: the terms of the embedding and of the residual stream are of
    one order, logits have a standard deviation of about 2, and identity experts take many of the choices.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _random_tensor(name, shape, generator) for name, shape in tensor_shapes(config).items()}


# Standard deviation of a layer's output for a normalised input. The model itself scales queries up.
_GAINS: Mapping[str, float] = {"classifier": 1.5, "q_b_proj": 0.7, "lm_head": 2.0}


def _random_tensor(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 1.0 + 0.2 * noise
    if name.endswith("e_score_correction_bias"):
        # Of the order of a score, 1 / experts: it decides some choices, and not all.
        return noise / shape[0]
    if ".embedders." in name or name.endswith("embed_tokens.weight"):
        return 2.0 * noise
    layer = name.removesuffix(".weight").rsplit(".", 1)[-1]
    return noise * (_GAINS.get(layer, 1.0) / math.sqrt(shape[-1]))
