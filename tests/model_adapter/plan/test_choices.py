"""Candidates for a workload, and the choice among their predictions."""

from dataclasses import replace

import pytest

from serval_sglang.known_configs import LITE
from serval_sglang.plan import Deployment
from serval_sglang.plan.choices import Candidate, Row, candidates, choose, measured_candidate
from serval_sglang.plan.prediction import Prediction
from serval_sglang.plan.simulated_engine import EngineSizes
from serval_sglang.plan.step_costs import MeasuredCosts, RatesFile

GIB = 1 << 30
DEPLOYMENT = Deployment(
    config=LITE, gpu_memory_bytes=round(79.6 * GIB), gpus=4, tp=4, ep=1, weight_dtype="bf16", kv_dtype="bf16",
    tables="device", context_tokens=131_072, runtime_bytes=GIB,
)  # fmt: skip
COSTS = MeasuredCosts(1, 1, 1, 1)
PREDICTION = Prediction(10, 0, 60.0, (0.1, 0.5, 1.0), 50.0, 1000.0, 9000.0, 0.9, 0.5, 4)


def row(**changes: object) -> Row:
    sizes = EngineSizes(1000, 100, 8)
    return Row(Candidate(1, 1, sizes, COSTS), replace(PREDICTION, **changes))  # type: ignore[arg-type]


def test_candidates_are_those_that_fit() -> None:
    found = [
        (one.tp, one.engines, one.sizes.chunk_tokens) for one in candidates(DEPLOYMENT, tps=None, chunks=None)
    ]
    # 137 GB of weights fit no single H100, and two only with small chunks.
    assert {tp for tp, _, _ in found} == {2, 4}
    assert (2, 2, 2048) in found
    assert (4, 1, 16_384) in found
    assert [one.tp for one in candidates(DEPLOYMENT, tps=[4], chunks=[4096])] == [4]


def test_measured_candidate_takes_sizes_of_the_file() -> None:
    found = measured_candidate(RatesFile(COSTS, 9000, 512, None), engines=2)
    assert found == Candidate(None, 2, EngineSizes(9000, 512, 256), COSTS)
    with pytest.raises(ValueError, match="does not say kv_tokens"):
        measured_candidate(RatesFile(COSTS, None, None, None), engines=1)


def test_choice_is_most_tokens_among_those_in_time() -> None:
    late = row(first_s=(1.0, 3.0, 9.0), output_tokens_per_s=9000.0)
    failing = row(failed=1, output_tokens_per_s=9000.0)
    slow, best, nearly = (
        row(),
        row(output_tokens_per_s=2000.0),
        row(output_tokens_per_s=1990.0, first_s=(0.1, 0.2, 1)),
    )
    assert choose([late, failing, slow, best], first_token_s=2.0) is best
    assert choose([slow, best, nearly], first_token_s=2.0) is nearly
    assert choose([late, failing], first_token_s=2.0) is None
