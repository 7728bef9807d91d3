"""Choice of tensor-parallel size, chunk and slots for a workload, by prediction of every candidate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from serval.workload_files import Workload
from serval_sglang.plan.fit import LARGEST_TP_TRIED, Deployment, plan_deployment
from serval_sglang.plan.prediction import Prediction, predict
from serval_sglang.plan.reserve import BatchLimits, default_batch_limits
from serval_sglang.plan.shard_sizes import PlanError
from serval_sglang.plan.simulated_engine import EngineSizes
from serval_sglang.plan.step_costs import RatesFile, StepCosts, estimated_costs

CHUNKS = (2048, 4096, 8192, 16_384)
# Defaults for an engine whose costs were measured: the stand-in's.
_DEFAULT_CHUNK = 4096
_DEFAULT_RUNNING = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to serve the workload. `tp` is None for measured costs, which hold for one engine as it was."""

    tp: int | None
    engines: int
    sizes: EngineSizes
    costs: StepCosts


@dataclass(frozen=True, slots=True)
class Row:
    """A candidate and the prediction for it."""

    candidate: Candidate
    prediction: Prediction


def candidates(
    deployment: Deployment, *, tps: Sequence[int] | None, chunks: Sequence[int] | None
) -> Iterator[Candidate]:
    """Yield those that fit the GPUs. None for all sizes that divide the GPUs, and for all of `CHUNKS`.

    Raises `PlanError` if speeds of the GPU are not known.
    """
    sizes = tps or [n for n in (1, 2, 4, LARGEST_TP_TRIED) if deployment.gpus % n == 0]
    for tp in sizes:
        limits = default_batch_limits(deployment.gpu_memory_bytes, tp=tp)
        for chunk in chunks or CHUNKS:
            given = deployment.limits or limits
            wanted = BatchLimits(chunk, given.graph_max_batch)
            try:
                plan = plan_deployment(replace(deployment, tp=tp, limits=wanted))
            except PlanError:
                continue
            if plan.fits:
                engine = EngineSizes(plan.kv_tokens, chunk, plan.request_slots)
                yield Candidate(tp, plan.deployment.engines, engine, estimated_costs(plan))


def measured_candidate(rates: RatesFile, *, engines: int) -> Candidate:
    """Return the engine of a file of measured costs. Raises `ValueError` if it does not say the KV cache."""
    if rates.kv_tokens is None:
        raise ValueError("the file of --rates does not say kv_tokens, the size of the KV cache; add it")
    sizes = EngineSizes(
        rates.kv_tokens, rates.chunk_tokens or _DEFAULT_CHUNK, rates.max_running or _DEFAULT_RUNNING
    )
    return Candidate(None, engines, sizes, rates.costs)


def predict_all(workload: Workload, tried: Iterator[Candidate], *, agents: int | None) -> list[Row]:
    """Predict each candidate. Raises `ValueError` as `predict` does."""
    return [
        Row(one, predict(workload, one.costs, one.sizes, engines=one.engines, agents=agents)) for one in tried
    ]


def choose(rows: Sequence[Row], *, first_token_s: float) -> Row | None:
    """Return the row to take: no request fails, nine of ten first tokens are in time, and most tokens come.

    Throughputs within 1 % count as equal: then the earlier first token wins. None if no row keeps to
    `first_token_s`.
    """
    good = [row for row in rows if not row.prediction.failed and row.prediction.first_s[1] <= first_token_s]
    if not good:
        return None
    best = max(row.prediction.output_tokens_per_s for row in good)
    nearly = [row for row in good if row.prediction.output_tokens_per_s >= 0.99 * best]
    return min(nearly, key=lambda row: row.prediction.first_s[1])
