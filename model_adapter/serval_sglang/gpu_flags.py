"""Flags of SGLang for an engine on a GPU. Imports nothing of SGLang."""

from collections.abc import Sequence
from pathlib import Path

from serval_sglang.config import ConfigError, LongcatConfig
from serval_sglang.known_configs import LITE

# A prefill graph would record the n-gram history of the warm-up batch and replay it for every prompt
# (layers/ngram_embedding.py refuses to be captured). SGLang 0.5.23 captures none for this model, but keeps
# 1.5 GiB free for them unless they are switched off.
_NO_PREFILL_GRAPHS = "--cuda-graph-backend-prefill=disabled"

_BACKEND_FLAGS = ("--attention-backend", "--decode-attention-backend", "--prefill-attention-backend")


def gpu_flags(model: Path, operator_flags: Sequence[str]) -> list[str]:
    """Return flags for the checkpoint in `model`, except those that `operator_flags` already set."""
    flags = [_NO_PREFILL_GRAPHS]
    if not _names_backend(operator_flags) and _has_small_attention(model):
        # On Hopper SGLang selects FlashAttention 3 for every model with latent attention, but it requires a
        # latent of 512 values and a rotary key of 64. Triton's kernels pad any size.
        flags.append("--attention-backend=triton")
    return flags


def _names_backend(flags: Sequence[str]) -> bool:
    return any(flag.partition("=")[0] in _BACKEND_FLAGS for flag in flags)


def _has_small_attention(model: Path) -> bool:
    """True for a model, such as the demo, whose attention is not of LongCat-Flash-Lite's size."""
    try:
        config = LongcatConfig.from_json_file(model / "config.json")
    except ConfigError:
        return False  # the engine refuses the file and gives the reason
    sizes = (config.kv_lora_rank, config.qk_rope_head_dim)
    return sizes != (LITE.kv_lora_rank, LITE.qk_rope_head_dim)
