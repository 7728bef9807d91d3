"""Differences: zero for equal models, equal to inserted errors, with ties excluded and counted."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from serval_sglang.checkpoint import random_state_dict, tiny_config
from serval_sglang.reference import ReferenceModel
from serval_sglang.verify.comparison import Disagreement, difference, merged, rounding_in_bfloat16
from serval_sglang.verify.engine import Generation
from serval_sglang.verify.verification import BOUNDS, Bound, Verification, judge

PROMPT = (5, 9, 2, 77, 31)
OUTPUT = [8, 2, 40]
TOP = 20


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    config = tiny_config(num_layers=1)
    model = ReferenceModel(config)
    model.load_state_dict(random_state_dict(config, seed=0))
    return model.eval()


@pytest.fixture
def exact(reference: ReferenceModel) -> Generation:
    """Answer of an engine without errors."""
    with torch.no_grad():
        rows = reference(torch.tensor([[*PROMPT, *OUTPUT]]))[0].log_softmax(-1)
    tops = [told(row) for row in rows]
    last = len(PROMPT) - 1
    return Generation(PROMPT, OUTPUT, tops[last : last + 3], [None, *tops[:last]], cached_tokens=0)


def told(row: Tensor) -> dict[int, float]:
    values, tokens = row.topk(TOP)
    return dict(zip(tokens.tolist(), values.tolist(), strict=True))


def shifted(generation: Generation, step: int, by: float) -> Generation:
    """Return a generation with all log-probabilities of one output position changed."""
    tops = list(generation.output_top)
    top = tops[step]
    assert top is not None
    tops[step] = {token: logprob + by for token, logprob in top.items()}
    return replace(generation, output_top=tops)


def test_difference_of_reference_from_itself_is_zero(reference: ReferenceModel, exact: Generation) -> None:
    got = difference([exact], reference)
    assert got.maximum < 1e-5
    assert got.kl < 1e-6
    # Four positions of the prompt, whose first token has no prediction, and three of the output.
    assert (got.positions, got.count, got.ties) == (7, 7 * TOP, 0)
    assert got.first_disagreement is None


def test_difference_measures_maximum_mean_and_divergence(
    reference: ReferenceModel, exact: Generation
) -> None:
    got = difference([shifted(exact, 1, -0.5)], reference)
    assert got.maximum == pytest.approx(0.5, abs=1e-4)
    assert got.mean == pytest.approx(0.5 / 7, abs=1e-4)
    # The 20 tokens lose a factor of e^-0.5 to the others.
    assert exact.output_top[1] is not None
    mass = sum(map(math.exp, exact.output_top[1].values()))
    left = (1 - mass) * math.log((1 - mass) / (1 - mass * math.exp(-0.5)))
    assert got.kl == pytest.approx((0.5 * mass + left) / 7, rel=1e-3)
    # The order of the tokens is unchanged.
    assert got.first_disagreement is None


def test_difference_reports_first_disagreement(reference: ReferenceModel, exact: Generation) -> None:
    tops = list(exact.output_top)
    assert tops[2] is not None
    unlikely = min(tops[2], key=tops[2].__getitem__)
    tops[2] = {**tops[2], unlikely: 0.0}
    wrong = replace(exact, output_top=tops)
    assert difference([exact, wrong], reference).first_disagreement == Disagreement(1, len(PROMPT) + 2)
    assert difference([exact, wrong], reference, tolerance=50.0).first_disagreement is None


def test_bound_refuses_nan(reference: ReferenceModel, exact: Generation) -> None:
    for dtype, bound in BOUNDS.items():
        assert bound.allows(difference([exact], reference))
        wrong = shifted(exact, 0, math.nan)
        assert not bound.allows(difference([exact, wrong], reference))
        assert not judge("", [exact, wrong], reference, dtype=dtype).agrees


def test_difference_excludes_positions_after_tie(reference: ReferenceModel, exact: Generation) -> None:
    """The bias lifts the first rejected expert to a tie with the last chosen one."""
    top_k = reference.config.moe_topk
    with torch.no_grad():
        scores = reference.run(torch.tensor([[*PROMPT, *OUTPUT]])).routing[0].scores[0]
    ordered = scores[3].sort(descending=True).values
    bias = reference.get_buffer("model.layers.0.mlp.router.e_score_correction_bias")
    before = bias.clone()
    try:
        bias.zero_()
        edge = scores[3].sort(descending=True).indices[top_k]
        bias[edge] = ordered[top_k - 1] - ordered[top_k]
        got = difference([exact], reference, leave_out_ties=True)
        # Rows 0, 1 and 2 predict the second, third and fourth token; the tie is in the fourth.
        assert (got.positions, got.ties) == (3, 4)
        assert difference([exact], reference).ties == 0
    finally:
        bias.copy_(before)


def test_bound_refuses_empty_comparison(reference: ReferenceModel) -> None:
    nothing = difference([], reference)
    assert nothing.positions == 0
    assert not BOUNDS["float32"].allows(nothing)


def test_merged_weighs_by_counts(reference: ReferenceModel, exact: Generation) -> None:
    parts = [[exact], [exact, shifted(exact, 0, 0.25)]]
    whole = difference([answer for part in parts for answer in part], reference)
    joined = merged(difference(part, reference) for part in parts)
    assert joined.mean == pytest.approx(whole.mean)
    assert joined.kl == pytest.approx(whole.kl)
    assert (joined.maximum, joined.count, joined.positions) == (whole.maximum, whole.count, whole.positions)


def test_judge_detects_one_bad_case(reference: ReferenceModel, exact: Generation) -> None:
    good = [judge("good", [exact], reference, dtype="bfloat16")] * 20
    bad = judge("bad", [shifted(exact, 0, 1.0)], reference, dtype="bfloat16")
    cases = [*good, bad]
    total = merged(case.difference for case in cases)
    found = Verification(BOUNDS["bfloat16"], cases, total)
    assert found.bound.allows(found.total)
    assert not found.agrees


def test_judge_takes_another_bound(reference: ReferenceModel, exact: Generation) -> None:
    rounded = [shifted(exact, 0, 1.0)]
    mean = difference(rounded, reference).mean
    allowance = 3.0  # of a single case
    for factor, agrees in ((1.01, True), (0.99, False)):
        bound = Bound("mean", factor * mean / allowance)
        assert judge("rounded", rounded, reference, dtype="bfloat16", bound=bound).agrees is agrees


def test_bounds_have_documented_values() -> None:
    assert BOUNDS["float32"] == Bound("maximum", 2e-3)
    assert BOUNDS["bfloat16"] == Bound("mean", 0.02)


def test_rounding_in_bfloat16_is_within_bound(reference: ReferenceModel, exact: Generation) -> None:
    assert 0 < rounding_in_bfloat16([exact], reference).mean < BOUNDS["bfloat16"].value


def test_difference_judges_choice_without_log_probabilities(
    reference: ReferenceModel, exact: Generation
) -> None:
    """Only tokens can be compared if a greedy engine was asked for no log-probabilities."""
    with torch.no_grad():
        rows = reference(torch.tensor([PROMPT]))[0].log_softmax(-1)
    best, second = rows[-1].topk(2).indices.tolist()
    right = Generation(PROMPT, [best], [None], [], cached_tokens=0)
    got = difference([right], reference)
    assert (got.positions, got.maximum, got.first_disagreement) == (1, 0.0, None)
    wrong = replace(right, output_ids=[second])
    got = difference([wrong], reference)
    assert got.maximum == pytest.approx(float(rows[-1, best] - rows[-1, second]))
    assert got.first_disagreement == Disagreement(0, len(PROMPT))
