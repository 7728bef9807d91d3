"""Random weights that exercise every part of the model, and configurations small enough for tests."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from serval_sglang.checkpoint.layout import Shape, mtp_tensor_shapes, tensor_shapes
from serval_sglang.config import ConfigError, LongcatConfig
from serval_sglang.known_configs import TINY, TINY_FP8, TINY_SPARSE


def tiny_config(*, fp8: bool = False, sparse: bool = False, **overrides: Any) -> LongcatConfig:
    """Return `TINY`, `TINY_FP8` or `TINY_SPARSE` with some fields changed.

    Raises `ConfigError` for an invalid model, and if it is to be both sparse and for FP8.
    """
    if fp8 and sparse:
        raise ConfigError("a tiny model has the sizes for FP8 or sparse attention, not both.")
    return replace(TINY_SPARSE if sparse else TINY_FP8 if fp8 else TINY, **overrides)


def random_state_dict(config: LongcatConfig, *, seed: int, mtp: bool = False) -> dict[str, Tensor]:
    """Return float32 weights for every tensor of `config`, determined by seed and configuration. `mtp` adds
    those of the MTP layer and leaves the others as they are.

    They are scaled so that each part changes the logits by far more than rounding does, even in bfloat16.
    Routers often choose identity experts, and logits have a standard deviation of about 1. The embedding is
    a few times as large as what a layer adds to it, as in trained models. If each layer rewrote the residual
    stream, one router choice changed by rounding would change later choices too, and the log-probabilities
    of a bfloat16 engine would differ by 0.05 on average. Here they differ by less than 0.02, while a wrong
    hash, identity experts not scaled or counted twice, or plain rope shift them by 0.1 to 0.7.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = tensor_shapes(config)
    if mtp:
        shapes |= mtp_tensor_shapes(config)
    weights = {name: _random_tensor(name, shape, generator) for name, shape in shapes.items()}
    if config.full_word_embedding:
        # Added as it is, it is to be about as large as the n-gram rows together.
        weights["model.embed_tokens.weight"] /= math.sqrt(1 + config.ngram_table_count)
    return weights


# Standard deviation of a layer's output for a normalised input. The model itself scales up queries.
_GAINS: Mapping[str, float] = {"classifier": 1.5, "q_b_proj": 0.5}

# The mean of 13 terms of this size has a standard deviation of 1.7.
_EMBEDDING_STD = 6.0


def _random_tensor(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 1.0 + 0.2 * noise
    if name.endswith("e_score_correction_bias"):
        # As large as a typical score, 1 / experts, so that it decides some choices but not all.
        return noise / shape[0]
    if ".embedders." in name or name.endswith("embed_tokens.weight"):
        return _EMBEDDING_STD * noise
    layer = name.removesuffix(".weight").rsplit(".", 1)[-1]
    return noise * (_GAINS.get(layer, 1.0) / math.sqrt(shape[-1]))
