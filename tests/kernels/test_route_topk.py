"""The router against its definition, one token at a time."""

import math

import pytest
import torch

from serval_kernels.route_topk import DROPPED, route_topk

ROUTED, IDENTITY, TOP_K, SCALE = 9, 5, 4, 6.0


def scalar_routing(logits: list[float], bias: list[float]) -> tuple[dict[int, float], float]:
    """Return the weight of each chosen routed expert, and the sum of the identity experts' weights."""
    exponentials = [math.exp(x - max(logits)) for x in logits]
    scores = [x / sum(exponentials) for x in exponentials]
    chosen = sorted(range(len(scores)), key=lambda e: scores[e] + bias[e], reverse=True)[:TOP_K]
    routed = {e: scores[e] * SCALE for e in chosen if e < ROUTED}
    return routed, sum(scores[e] * SCALE for e in chosen if e >= ROUTED)


@pytest.mark.parametrize("identity_lift", [-9.0, 0.0, 9.0], ids=["none", "some", "only identity"])
def test_route_topk_follows_definition(identity_lift: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(40, ROUTED + IDENTITY, generator=generator)
    logits[:, ROUTED:] += identity_lift
    bias = torch.randn(ROUTED + IDENTITY, generator=generator) / 20

    got = route_topk(logits, bias, top_k=TOP_K, routed_experts=ROUTED, scaling_factor=SCALE)

    assert (got.weights.dtype, got.expert_ids.dtype) == (torch.float32, torch.int32)
    for token in range(len(logits)):
        routed, identity = scalar_routing(logits[token].tolist(), bias.tolist())
        kept = got.expert_ids[token] != DROPPED
        assert dict(
            zip(got.expert_ids[token][kept].tolist(), got.weights[token][kept].tolist(), strict=True)
        ) == pytest.approx(routed, rel=1e-5)
        assert got.identity_weight[token].item() == pytest.approx(identity, rel=1e-5)
        assert not got.weights[token][~kept].any()


def test_route_topk_accepts_no_tokens() -> None:
    empty = torch.zeros(0, ROUTED + IDENTITY)
    got = route_topk(
        empty, torch.zeros(ROUTED + IDENTITY), top_k=TOP_K, routed_experts=ROUTED, scaling_factor=SCALE
    )
    assert (got.expert_ids.shape, got.identity_weight.shape) == ((0, TOP_K), (0,))
