"""Random experts and their definition, routing with identity slots, the check before a launch is timed."""

import math
from typing import Any, NoReturn

import pytest
import torch
import torch.nn.functional as F

from serval_sglang.known_configs import LITE
from serval_sglang.moe_tuning import trial
from serval_sglang.moe_tuning.experts import (
    DROPPED,
    Shape,
    expected_output,
    expert_shape,
    largest_error,
    random_experts,
    random_tokens,
)

CPU = torch.device("cpu")
LAUNCH = {"BLOCK_SIZE_M": 16}


def small(dtype: Any) -> Shape:
    return Shape(
        experts=4, width=128, hidden=256, top_k=3, routed_experts=4, all_experts=6, dtype=dtype
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tp", "ep", "experts", "width"),
    [(1, 1, 256, 1024), (2, 2, 128, 1024), (2, 1, 256, 512), (4, 2, 128, 512)],
)
def test_expert_shape_is_that_of_one_rank(tp: int, ep: int, experts: int, width: int) -> None:
    shape = expert_shape(LITE, tp=tp, ep=ep, dtype="fp8")
    assert (shape.experts, shape.width, shape.hidden, shape.top_k) == (experts, width, 3072, 12)
    assert (shape.routed_experts, shape.all_experts, shape.block_shape) == (256, 384, [128, 128])


@pytest.mark.parametrize(("ranks", "real"), [(1, 8), (2, 4)])
def test_random_tokens_leave_identity_slots_and_other_ranks_out(ranks: int, real: int) -> None:
    """Two thirds of 384 experts are routed ones, so that 8 of 12 slots are real, 4 on each of two ranks."""
    shape = expert_shape(LITE, tp=ranks, ep=ranks, dtype="bf16")
    torch.manual_seed(0)
    ids = random_tokens(shape, 2000, CPU).ids
    assert ids.shape == (2000, 12)
    assert (ids != DROPPED).sum(dim=1).float().mean() == pytest.approx(real, rel=0.02)
    assert ids.min() == DROPPED
    assert ids.max() == shape.experts - 1
    kept = [[e for e in row if e != DROPPED] for row in ids.tolist()]
    assert all(len(set(row)) == len(row) for row in kept)


def test_expected_output_is_gated_mlp_of_each_slot() -> None:
    torch.manual_seed(0)
    experts, tokens = random_experts(small("bf16"), CPU), random_tokens(small("bf16"), 7, CPU)
    got = expected_output(experts, tokens)
    for token, ids in enumerate(tokens.ids.tolist()):
        for slot, expert in enumerate(ids):
            if expert == DROPPED:
                assert not got[token, slot].any()
                continue
            gate, up = experts.w13[expert].float().chunk(2)
            x = tokens.hidden[token].float()
            exact = experts.w2[expert].float() @ (F.silu(gate @ x) * (up @ x)) * tokens.weights[token, slot]
            torch.testing.assert_close(got[token, slot], exact, rtol=1e-3, atol=1e-4)


def test_random_experts_in_fp8_are_the_bf16_ones_within_a_scale_each_block() -> None:
    torch.manual_seed(0)
    exact = random_experts(small("bf16"), CPU)
    torch.manual_seed(0)
    coded = random_experts(small("fp8"), CPU)
    assert coded.w13_scale is not None
    assert coded.w13_scale.shape == (4, 2, 2)
    tokens = random_tokens(small("fp8"), 40, CPU)
    error = largest_error(expected_output(coded, tokens), expected_output(exact, tokens))
    assert 0.01 < error < 0.08


def test_largest_error_is_relative_to_each_slot() -> None:
    expected = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    assert largest_error(expected, expected) == 0
    assert largest_error(torch.tensor([[[3.0, 4.5], [0.0, 0.0]]]), expected) == pytest.approx(0.1)
    assert largest_error(torch.tensor([[[3.0, 4.0], [0.0, 1e-6]]]), expected) == math.inf
    assert largest_error(torch.tensor([[[3.0, math.nan], [0.0, 0.0]]]), expected) == math.inf


def test_checked_seconds_times_right_launch() -> None:
    expected = torch.ones(2, 3, 4)
    assert trial.checked_seconds(expected.clone, expected, CPU, largest=0.01, launch=LAUNCH) is not None


def test_checked_seconds_rejects_wrong_launch_untimed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "time_call", None)
    expected = torch.ones(2, 3, 4)
    wrong = expected.clone()
    wrong[1, 2] = 0
    assert trial.checked_seconds(lambda: wrong, expected, CPU, largest=0.12, launch=LAUNCH) is None
    assert capsys.readouterr().err == "rejected: error 1: {'BLOCK_SIZE_M': 16}\n"


def test_checked_seconds_rejects_launch_that_does_not_compile(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> NoReturn:
        raise RuntimeError("out of resource: shared memory\nreduce stages")

    assert trial.checked_seconds(refuse, torch.ones(1), CPU, largest=0.1, launch=LAUNCH) is None
    assert "rejected: RuntimeError: out of resource: shared memory: {'BLOCK" in capsys.readouterr().err
