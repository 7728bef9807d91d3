"""Seconds of an engine's steps: estimated for a GPU, or as measured on an engine.

**Estimated** (`estimated_costs`), for a rank of a tensor-parallel engine. A decode step of b requests with c
tokens of context in all reads every weight that it needs, and all latents, once:

    decode = launch + (dense + experts * (1 - (1 - k / E) ^ b) + c * latent bytes) / (0.8 * bandwidth)
             + exchange

with the bytes of dense weights and of experts on this rank; a token uses k of E experts. A prefill step of t
tokens that attend to p (query, key) pairs in all computes

    prefill = base + (2 * t * active parameters / peak of their dtype + FLOP of p / bf16 peak) / 0.56
              + exchange

The launch times and the two shares of the peak are set so that the published figures of SGLang's built-in
model on one H200 come out (FP8, sgl-project/sglang#30247: 1,024 tokens in, 128 out, batch 1, 16 and 64). The
exchange between ranks is assumed. **Nothing here was measured on Serval**, and drafts are left out.

**Measured** (`read_costs`): the four numbers of a file of `python -m serval_load fit`.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serval_sglang.checkpoint.layout import tensor_shapes
from serval_sglang.checkpoint.parts import Part, part_of
from serval_sglang.config import LongcatConfig
from serval_sglang.plan.fit import Plan
from serval_sglang.plan.shard_sizes import ABSORBED, PlanError

# Fitted to the published figures: see the module, and tests/model_adapter/plan/test_step_costs.py.
_DECODE_LAUNCH_S = 0.0028
_PREFILL_BASE_S = 0.058
_BANDWIDTH_SHARE = 0.8
_FLOPS_SHARE = 0.56
# Assumed: seconds of one all-reduce of a decode step, and bytes a second of a rank's links in a prefill step.
_ALL_REDUCE_S = 15e-6
_LINK_BYTES_PER_S = 300e9
# Sums over ranks in a layer: after each of two attentions, and after experts and dense branch together.
_SUMS_PER_LAYER = 3
_DENSE_PARTS = (
    Part.NGRAM_PROJECTIONS,
    Part.ATTENTION,
    Part.DENSE_MLPS,
    Part.ROUTER,
    Part.NORMS,
    Part.HEAD,
    ABSORBED,
)
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Gpu:
    """Figures of a GPU's data sheet: bytes a second of its memory, dense FLOP a second in bf16 and FP8."""

    name: str
    memory_gib: float
    bandwidth: float
    bf16_flops: float
    fp8_flops: float


GPUS = (
    Gpu("A100", 80.0, 2.04e12, 312e12, 312e12),
    Gpu("H100", 79.6, 3.35e12, 989e12, 1979e12),
    Gpu("H200", 140.4, 4.8e12, 989e12, 1979e12),
    Gpu("B200", 179.1, 8.0e12, 2250e12, 4500e12),
)


class StepCosts(Protocol):
    """Seconds of the steps of one engine."""

    def decode_s(self, batch: int, context: float) -> float:
        """Seconds of a step that gives `batch` requests, with `context` tokens in all, a token each."""
        ...

    def prefill_s(self, tokens: int, pairs: float) -> float:
        """Seconds of a step that computes `tokens` new tokens; they attend to `pairs` (query, key) pairs."""
        ...


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """Costs of a file of `python -m serval_load fit`. Context counts for nothing in them."""

    decode_base_s: float
    decode_request_s: float
    prefill_base_s: float
    prefill_token_s: float

    def decode_s(self, batch: int, context: float) -> float:
        """See `StepCosts`."""
        return self.decode_base_s + batch * self.decode_request_s

    def prefill_s(self, tokens: int, pairs: float) -> float:
        """See `StepCosts`."""
        return self.prefill_base_s + tokens * self.prefill_token_s


@dataclass(frozen=True, slots=True)
class EstimatedCosts:
    """Terms of the formulas above, already divided by what the GPU does a second."""

    dense_s: float
    experts_s: float
    # Share of the experts that one token uses.
    used_share: float
    context_token_s: float
    prefill_token_s: float
    prefill_pair_s: float
    decode_exchange_s: float

    def decode_s(self, batch: int, context: float) -> float:
        """See `StepCosts`."""
        touched = 1 - (1 - self.used_share) ** batch
        read_s = self.dense_s + self.experts_s * touched + context * self.context_token_s
        return _DECODE_LAUNCH_S + read_s + self.decode_exchange_s

    def prefill_s(self, tokens: int, pairs: float) -> float:
        """See `StepCosts`."""
        return _PREFILL_BASE_S + tokens * self.prefill_token_s + pairs * self.prefill_pair_s


def gpu_of(memory_gib: float) -> Gpu:
    """Return the known GPU with this memory. Raises `PlanError` if there is none."""
    nearest = min(GPUS, key=lambda gpu: abs(gpu.memory_gib - memory_gib))
    if abs(nearest.memory_gib - memory_gib) > 1.0:
        known = ", ".join(f"{gpu.name} ({gpu.memory_gib:g})" for gpu in GPUS)
        raise PlanError(
            f"speeds are known of {known}, not of a GPU with {memory_gib:g} GiB; give measured ones with "
            "--rates FILE, a file of `python -m serval_load fit`"
        )
    return nearest


def estimated_costs(plan: Plan) -> EstimatedCosts:
    """Return the costs of one engine of a plan. Raises `PlanError` if the GPU is not known."""
    given, config = plan.deployment, plan.deployment.config
    gpu = gpu_of(given.gpu_memory_bytes / _GIB)
    read = gpu.bandwidth * _BANDWIDTH_SHARE
    linear_flops = gpu.fp8_flops if given.weight_dtype == "fp8" else gpu.bf16_flops
    used_share = _used_share(config)
    sums = _SUMS_PER_LAYER * config.num_layers if given.tp > 1 else 0
    # Each sum moves a rank's tokens, in bf16, there and back but for its own share.
    exchanged = sums * 2 * 2 * config.hidden_size * (given.tp - 1) / given.tp
    return EstimatedCosts(
        dense_s=sum(plan.weights_bytes.get(part, 0) for part in _DENSE_PARTS) / read,
        experts_s=plan.weights_bytes[Part.EXPERTS] / read,
        used_share=used_share,
        context_token_s=plan.kv_bytes_per_token / read,
        prefill_token_s=2 * active_parameters(config) / given.tp / (linear_flops * _FLOPS_SHARE)
        + exchanged / _LINK_BYTES_PER_S,
        prefill_pair_s=_attention_flops(config) / given.tp / (gpu.bf16_flops * _FLOPS_SHARE),
        decode_exchange_s=sums * _ALL_REDUCE_S,
    )


def active_parameters(config: LongcatConfig) -> float:
    """Count the parameters that a prompt's token is multiplied with: no tables, no head, its own experts."""
    counts: dict[Part, int] = defaultdict(int)
    for name, shape in tensor_shapes(config).items():
        counts[part_of(name)] += math.prod(shape)
    dense = (Part.NGRAM_PROJECTIONS, Part.ATTENTION, Part.DENSE_MLPS, Part.ROUTER)
    return sum(counts[part] for part in dense) + counts[Part.EXPERTS] * _used_share(config)


def _used_share(config: LongcatConfig) -> float:
    """Return the share of real experts that a token uses, if its choices fall on all experts alike."""
    return config.moe_topk / config.num_experts_total


def _attention_flops(config: LongcatConfig) -> int:
    """Count FLOP of one (query, key) pair in both attentions of all layers."""
    each = 2 * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    return 2 * config.num_layers * config.num_attention_heads * each


@dataclass(frozen=True, slots=True)
class RatesFile:
    """Measured costs, and the sizes of the engine as far as the file states them."""

    costs: MeasuredCosts
    kv_tokens: int | None
    chunk_tokens: int | None
    max_running: int | None


def read_costs(path: Path) -> RatesFile:
    """Read a file of `python -m serval_load fit`. Raises `OSError`, or `ValueError` with the remedy."""
    names = ("decode_base_s", "decode_request_s", "prefill_base_s", "prefill_token_s")
    wanted = f'wanted {{"costs": {{{", ".join(names)}, ...}}}}, a file of `python -m serval_load fit`'
    try:
        given = json.loads(path.read_text(encoding="utf-8"))["costs"]
        costs = MeasuredCosts(*(float(given[name]) for name in names))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no costs ({error!r}); {wanted}") from None
    if min(costs.decode_base_s, costs.decode_request_s, costs.prefill_base_s, costs.prefill_token_s) < 0:
        raise ValueError(f"{path} holds a negative cost; {wanted}")
    sizes = (given.get(name) for name in ("kv_tokens", "chunk_tokens", "max_running"))
    return RatesFile(costs, *(None if size is None else int(size) for size in sizes))
