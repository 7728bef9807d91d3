"""GPU memory that SGLang leaves free beside weights and KV cache, for activations and CUDA graphs.

The figures are SGLang 0.5.23's own rule of thumb (sglang/srt/arg_groups/memory_hook.py,
`handle_gpu_memory_settings` and `reserve_for_graph_mb`), from which it derives `--mem-fraction-static` unless
the operator sets it.
"""

from dataclasses import dataclass

from serval_sglang.options import candidate_steps

_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Largest number of tokens in a prefill chunk, and of requests in a captured decode graph."""

    chunked_prefill_size: int
    graph_max_batch: int


def default_batch_limits(gpu_memory_bytes: int, *, tp: int) -> BatchLimits:
    """Return SGLang's choice for a GPU of this size."""
    gib = gpu_memory_bytes / _GIB
    if gib < 20:
        return BatchLimits(2048, 8)
    if gib < 35:
        return BatchLimits(4096, 48 if tp < 4 else 160)
    if gib < 60:
        return BatchLimits(4096, 32 if tp < 4 else 160)
    if gib < 160:
        return BatchLimits(8192, 256 if tp < 4 else 512)
    return BatchLimits(16384, 512)


def draft_graph_sets(mtp_steps: int, *, num_layers: int) -> float:
    """Return how many sets of decode graphs an engine with drafts captures, in sets of the whole model.

    SGLang captures for each number of steps to choose from (`options.candidate_steps`): the model's
    verification, an extension by the draft model of one layer, and for more than one step its decode passes
    (sglang/srt/speculative/eagle_worker_v2.py, `build_adaptive_runtime_state` and `_capture_cuda_graphs`).
    """
    candidates = candidate_steps(mtp_steps)
    of_draft_model = sum(1 + (steps > 1) for steps in candidates)
    return len(candidates) + of_draft_model / num_layers


def reserve_bytes(limits: BatchLimits, gpu_memory_bytes: int, *, tp: int, graph_sets: float = 1.0) -> int:
    """Return the reserve of one GPU, without the 1.5 GiB for prefill graphs that `gpu_flags` switches off.

    SGLang's rule knows one of the `graph_sets`; the others are added to what it reserves.
    """
    constant_mib = 512
    activations_mib = 1.5 * max(limits.chunked_prefill_size, 2048)
    parallel_mib = tp * 1024 / 8
    decode_graphs_mib = 2 * limits.graph_max_batch
    total_mib = constant_mib + activations_mib + parallel_mib + decode_graphs_mib
    least_mib = 10 * 1024 if gpu_memory_bytes > 60 * _GIB else 0
    return int((max(total_mib, least_mib) + (graph_sets - 1) * decode_graphs_mib) * _MIB)
