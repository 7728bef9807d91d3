"""Size of the n-gram tables with which every variant fits the GPU, by the arithmetic of `serval plan`."""

from collections.abc import Collection
from dataclasses import replace

from serval_sglang.config import LongcatConfig
from serval_sglang.plan import Deployment, PlanError, plan_deployment
from serval_sglang.plan.shard_sizes import TablePlacement, WeightDtype

# CUDA context and libraries, as `serval plan` assumes.
_RUNTIME_BYTES = 1 << 30
# An engine that just fits by arithmetic should start, not miss by a few megabytes of fragments.
_SPARE_BYTES = 2 << 30


def table_ratio(
    config: LongcatConfig,
    gpu_memory: int,
    placements: Collection[TablePlacement],
    *,
    weight_dtype: WeightDtype,
    context_tokens: int,
    cached_tokens: int,
) -> int:
    """Return rows of a table, in whole vocabularies, with which tables in any of the places fit on one GPU.

    - `gpu_memory` in bytes
    - `context_tokens`: the longest request; `cached_tokens`: of all requests that run at once

    The ratio is never above the model's own. Raises `PlanError` if not even tables of one vocabulary fit.
    """

    def fits(ratio: int) -> bool:
        shrunk = replace(config, ngram_vocab_size_ratio=ratio)
        given = Deployment(
            config=shrunk,
            gpu_memory_bytes=gpu_memory,
            gpus=1,
            tp=1,
            ep=1,
            weight_dtype=weight_dtype,
            kv_dtype="bf16",
            tables="device",
            context_tokens=context_tokens,
            runtime_bytes=_RUNTIME_BYTES,
        )
        return all(_fits(replace(given, tables=placement), cached_tokens) for placement in placements)

    for ratio in range(int(config.ngram_vocab_size_ratio), 0, -1):
        if fits(ratio):
            return ratio
    raise PlanError(
        f"{config.num_layers} layers do not fit on a GPU with {gpu_memory / 2**30:.1f} GiB, with tables of "
        "any size: give fewer --layers."
    )


def _fits(deployment: Deployment, cached_tokens: int) -> bool:
    plan = plan_deployment(deployment)
    return plan.fits and plan.kv_bytes >= _SPARE_BYTES + cached_tokens * plan.kv_bytes_per_token
