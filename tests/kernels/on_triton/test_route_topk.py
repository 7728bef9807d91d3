"""The router against its torch reference and one token at a time in Python floats."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serval_kernels.bench.agreement import routing_difference
from serval_kernels.launch import INTERPRETED
from serval_kernels.route_topk import DROPPED, route_topk_reference, route_topk_triton
from serval_testkit.triton_device import DEVICE

SCALE = 6.0
# Candidates closer than this may swap between two ways to compute a softmax in float32.
TIE = 1e-6


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    experts = draw(st.integers(1, 70))
    numbers = st.floats(-8, 8, width=32)
    logits = draw(arrays.arrays("float32", (draw(st.integers(0, 3)), experts), elements=numbers))
    bias = draw(arrays.arrays("float32", (experts,), elements=st.floats(-0.5, 0.5, width=32)))
    top_k, routed = draw(st.integers(1, experts)), draw(st.integers(0, experts))
    return torch.from_numpy(logits).to(DEVICE), torch.from_numpy(bias).to(DEVICE), top_k, routed


@given(cases())
def test_route_topk_chooses_best_candidates_and_their_weights(
    case: tuple[torch.Tensor, torch.Tensor, int, int],
) -> None:
    logits, bias, top_k, routed = case
    got = route_topk_triton(logits, bias, top_k=top_k, routed_experts=routed, scaling_factor=SCALE)
    assert got.weights.shape == got.expert_ids.shape == (len(logits), top_k)
    for token, row in enumerate(logits.tolist()):
        exponentials = [math.exp(x - max(row)) for x in row]
        scores = [x / sum(exponentials) for x in exponentials]
        ranked = sorted((s + b for s, b in zip(scores, bias.tolist(), strict=True)), reverse=True)
        ids, weights = got.expert_ids[token].tolist(), got.weights[token].tolist()
        kept = [e for e in ids if e != DROPPED]
        assert len(set(kept)) == len(kept)
        for expert, weight in zip(ids, weights, strict=True):
            if expert == DROPPED:
                assert weight == 0
            else:
                assert 0 <= expert < routed
                assert scores[expert] + bias[expert].item() >= ranked[top_k - 1] - TIE
                assert weight == pytest.approx(scores[expert] * SCALE, rel=1e-4, abs=1e-7)
        # All weight outside routed slots is in the identity weight, up to ties at the cut-off.
        if top_k == len(row):
            identity = sum(scores[routed:]) * SCALE
            assert got.identity_weight[token].item() == pytest.approx(identity, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("experts", "routed", "top_k"), [(384, 256, 12), (24, 16, 5), (1030, 1000, 33), (1, 1, 1), (768, 512, 12)]
)
def test_route_topk_equals_reference_without_ties(experts: int, routed: int, top_k: int) -> None:
    generator = torch.Generator().manual_seed(experts)
    logits = (2 * torch.randn(7, experts, generator=generator)).to(DEVICE)
    bias = (torch.randn(experts, generator=generator) / experts).to(DEVICE)
    options = {"top_k": top_k, "routed_experts": routed, "scaling_factor": SCALE}
    got, expected = route_topk_triton(logits, bias, **options), route_topk_reference(logits, bias, **options)
    by_id, expected_by_id = got.expert_ids.sort(dim=1), expected.expert_ids.sort(dim=1)
    assert torch.equal(by_id.values, expected_by_id.values)
    torch.testing.assert_close(
        got.weights.gather(1, by_id.indices), expected.weights.gather(1, expected_by_id.indices)
    )
    torch.testing.assert_close(got.identity_weight, expected.identity_weight)


def test_route_topk_of_lite_is_exact_but_for_ties() -> None:
    """The comparison of the bench; with thousands of tokens, ties within rounding are common."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4 if INTERPRETED else 8192, 384, generator=generator).to(DEVICE)
    bias = (torch.randn(384, generator=generator) / 384).to(DEVICE)
    got = route_topk_triton(logits, bias, top_k=12, routed_experts=256, scaling_factor=SCALE)
    assert routing_difference(got, logits, bias, routed_experts=256, scaling_factor=SCALE) is None


def test_route_topk_chooses_lower_id_among_ties() -> None:
    logits, bias = torch.zeros(2, 20, device=DEVICE), torch.zeros(20, device=DEVICE)
    got = route_topk_triton(logits, bias, top_k=6, routed_experts=4, scaling_factor=1.0)
    assert got.expert_ids.tolist() == [[0, 1, 2, 3, DROPPED, DROPPED]] * 2
    torch.testing.assert_close(got.identity_weight, torch.full((2,), 0.1, device=DEVICE))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_route_topk_returns_valid_ids_for_broken_logits(broken: float) -> None:
    logits, bias = torch.randn(3, 24, device=DEVICE), torch.zeros(24, device=DEVICE)
    logits[0, 5] = broken
    logits[1] = broken
    got = route_topk_triton(logits, bias, top_k=5, routed_experts=16, scaling_factor=SCALE)
    assert ((got.expert_ids >= DROPPED) & (got.expert_ids < 16)).all()
    for ids in got.expert_ids.tolist():
        kept = [e for e in ids if e != DROPPED]
        assert len(set(kept)) == len(kept)
    # The other token is unaffected.
    untouched = route_topk_triton(logits[2:], bias, top_k=5, routed_experts=16, scaling_factor=SCALE)
    assert torch.equal(got.weights[2:], untouched.weights)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_route_topk_handles_negative_candidates(sign: float) -> None:
    bias = sign * torch.linspace(1, 2, 24, device=DEVICE)
    logits = torch.zeros(1, 24, device=DEVICE)
    got = route_topk_triton(logits, bias, top_k=3, routed_experts=24, scaling_factor=1.0)
    assert got.expert_ids.tolist() == [[0, 1, 2] if sign < 0 else [23, 22, 21]]
