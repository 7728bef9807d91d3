"""Flags and environment of an engine on a GPU. Imports neither torch nor SGLang."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from serval_sglang.config import ConfigError, LongcatConfig
from serval_sglang.known_configs import LITE

# A prefill graph would record the n-gram history of the warm-up batch and replay it for every prompt
# (layers/ngram_embedding.py refuses to be captured). SGLang 0.5.23 captures none for this model, but keeps
# 1.5 GiB free for them unless they are switched off.
_NO_PREFILL_GRAPHS = "--cuda-graph-backend-prefill=disabled"

# torch reads the first of them that is set (c10/cuda/CUDAAllocatorConfig.h, `instance`).
_ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_EXACT_ABOVE = "pinned_max_round_threshold_mb"

_BACKEND_FLAGS = ("--attention-backend", "--decode-attention-backend", "--prefill-attention-backend")


def gpu_flags(model: Path, operator_flags: Sequence[str]) -> list[str]:
    """Return flags for the checkpoint in `model`, except those that `operator_flags` already set."""
    flags = [_NO_PREFILL_GRAPHS]
    if not _names_backend(operator_flags) and _has_small_attention(model):
        # On Hopper SGLang selects FlashAttention 3 for every model with latent attention, but it requires a
        # latent of 512 values and a rotary key of 64. Triton's kernels pad any size.
        flags.append("--attention-backend=triton")
    return flags


def host_tables_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return variables to add to `inherited`, whose own choices stay, for n-gram tables in host memory."""
    added = _exact_pinned_sizes(inherited)
    if "SGLANG_NUMA_BIND_V2" not in inherited:
        # Has each scheduler bind itself to its GPU's NUMA node before it allocates the tables. SGLang's other
        # way needs the command numactl, and takes no memory from other nodes when that one is full.
        added["SGLANG_NUMA_BIND_V2"] = "0"
    return added


def _exact_pinned_sizes(inherited: Mapping[str, str]) -> dict[str, str]:
    """Have torch pin tables in their own size: it rounds up to a power of two, 62.8 GB to 68.7 GB."""
    name = next((name for name in _ALLOCATOR_VARIABLES if name in inherited), _ALLOCATOR_VARIABLES[-1])
    given = inherited.get(name, "")
    if _EXACT_ABOVE in given:
        return {}
    return {name: ",".join(filter(None, [given, f"{_EXACT_ABOVE}:1024"]))}


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
