"""Comparison of routings: exact about the choice, except between candidates equal within rounding."""

from collections.abc import Callable

import pytest
import torch

from serval_kernels.bench.agreement import difference, routing_difference
from serval_kernels.route_topk import DROPPED, Routing, route_topk_reference

EXPERTS, ROUTED, TOP_K, SCALE = 384, 256, 12, 6.0


def inputs(tokens: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(EXPERTS, generator=generator) / EXPERTS
    return torch.randn(tokens, EXPERTS, generator=generator), bias


def compare(routing: Routing, logits: torch.Tensor, bias: torch.Tensor) -> str | None:
    return routing_difference(routing, logits, bias, routed_experts=ROUTED, scaling_factor=SCALE)


def reference(logits: torch.Tensor, bias: torch.Tensor) -> Routing:
    return route_topk_reference(logits, bias, top_k=TOP_K, routed_experts=ROUTED, scaling_factor=SCALE)


def test_routing_difference_accepts_reference() -> None:
    logits, bias = inputs(8192)
    assert compare(reference(logits, bias), logits, bias) is None


def test_routing_difference_accepts_other_float32_softmax() -> None:
    """A softmax by powers of two, as GPUs compute it, differs in the last bits of most scores."""
    logits, bias = inputs(8192, seed=1)
    log2e = 1.4426950408889634
    raised = torch.exp2((logits - logits.amax(dim=1, keepdim=True)) * log2e)
    scores = raised / raised.flip(1).cumsum(dim=1)[:, -1:]
    assert (scores != logits.softmax(dim=1)).float().mean() > 0.3
    chosen = (scores + bias).topk(TOP_K, dim=1).indices
    weights = scores.gather(1, chosen) * SCALE
    is_identity = chosen >= ROUTED
    routing = Routing(
        weights.masked_fill(is_identity, 0.0),
        chosen.masked_fill(is_identity, DROPPED).int(),
        weights.masked_fill(~is_identity, 0.0).sum(dim=1),
    )
    assert compare(routing, logits, bias) is None


def near_tie() -> tuple[torch.Tensor, torch.Tensor]:
    """Twelfth place of one token contested by routed expert 100 and identity expert 300, one ulp apart."""
    logits = torch.zeros(1, EXPERTS)
    logits[0, :11] = 5.0
    logits[0, [100, 300]] = torch.tensor([4.0, 4.0 + 2**-21])
    return logits, torch.zeros(EXPERTS)


def with_choice(routing: Routing, logits: torch.Tensor, expert: int) -> Routing:
    """Return `routing` with `expert` in the slot of the contested place."""
    score = float(logits.softmax(dim=1)[0, expert]) * SCALE
    slot = next(i for i, e in enumerate(routing.expert_ids[0].tolist()) if e not in range(11))
    ids, weights = routing.expert_ids.clone(), routing.weights.clone()
    ids[0, slot] = expert if expert < ROUTED else DROPPED
    weights[0, slot] = score if expert < ROUTED else 0.0
    identity = torch.tensor([0.0 if expert < ROUTED else score])
    return Routing(weights, ids, identity)


@pytest.mark.parametrize("expert", [100, 300])
def test_routing_difference_accepts_either_side_of_near_tie(expert: int) -> None:
    logits, bias = near_tie()
    assert compare(with_choice(reference(logits, bias), logits, expert), logits, bias) is None


def test_routing_difference_rejects_third_expert_beside_near_tie() -> None:
    logits, bias = near_tie()
    found = compare(with_choice(reference(logits, bias), logits, 200), logits, bias)
    assert found == "token 0 has expert 200, which is not among the highest candidates"


def test_routing_difference_rejects_certain_expert_lost_beside_near_tie() -> None:
    """Experts 100 and 300 both chosen would be twelve with one of the certain eleven missing."""
    logits, bias = near_tie()
    routing = with_choice(reference(logits, bias), logits, 100)
    ids, weights = routing.expert_ids.clone(), routing.weights.clone()
    slot = ids[0].tolist().index(4)
    ids[0, slot], weights[0, slot] = DROPPED, 0.0
    identity = logits.softmax(dim=1)[:, 300] * SCALE
    found = compare(Routing(weights, ids, identity), logits, bias)
    assert found == "token 0 lacks expert 4, which is among the highest candidates"


def swap_last_place(routing: Routing) -> Routing:
    """Give the slot of some routed expert of token 5 to an expert that is not chosen."""
    ids = routing.expert_ids.clone()
    slot = int((ids[5] != DROPPED).nonzero()[0])
    ids[5, slot] = next(e for e in range(ROUTED) if e not in ids[5].tolist())
    return routing._replace(expert_ids=ids)


def repeat_expert(routing: Routing) -> Routing:
    ids = routing.expert_ids.clone()
    first, second = (ids[5] != DROPPED).nonzero()[:2, 0].tolist()
    ids[5, first] = ids[5, second]
    return routing._replace(expert_ids=ids)


def keep_identity_id(routing: Routing) -> Routing:
    ids = routing.expert_ids.clone()
    slot = int((ids[5] == DROPPED).nonzero()[0])
    ids[5, slot] = ROUTED
    return routing._replace(expert_ids=ids)


def drop_expert(routing: Routing) -> Routing:
    ids, weights = routing.expert_ids.clone(), routing.weights.clone()
    slot = int((ids[5] != DROPPED).nonzero()[0])
    ids[5, slot], weights[5, slot] = DROPPED, 0.0
    return routing._replace(expert_ids=ids, weights=weights)


def change_weight(routing: Routing) -> Routing:
    weights = routing.weights.clone()
    weights[5] *= 1.0001
    return routing._replace(weights=weights)


def lose_identity_weight(routing: Routing) -> Routing:
    identity = routing.identity_weight.clone()
    identity[5] *= 0.99
    return routing._replace(identity_weight=identity)


def spoil_with_nan(routing: Routing) -> Routing:
    identity = routing.identity_weight.clone()
    identity[5] = float("nan")
    return routing._replace(identity_weight=identity)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (swap_last_place, "which is not among the highest candidates"),
        (repeat_expert, "twice"),
        (keep_identity_id, "has expert 256, outside of the 256 routed experts"),
        (drop_expert, "which is among the highest candidates"),
        (change_weight, "has weight"),
        (lose_identity_weight, "has identity weight"),
        (spoil_with_nan, "has identity weight nan"),
    ],
)
def test_routing_difference_rejects_wrong_routing(spoil: Callable[[Routing], Routing], message: str) -> None:
    logits, bias = inputs(64)
    found = compare(spoil(reference(logits, bias)), logits, bias)
    assert found is not None
    assert found.startswith("token 5 ")
    assert message in found


def test_routing_difference_rejects_choice_without_bias() -> None:
    logits, bias = inputs(64)
    assert compare(reference(logits, torch.zeros_like(bias)), logits, bias) is not None


def test_routing_difference_rejects_unscaled_weights() -> None:
    logits, bias = inputs(64)
    routing = route_topk_reference(logits, bias, top_k=TOP_K, routed_experts=ROUTED, scaling_factor=1.0)
    assert compare(routing, logits, bias) is not None


def test_difference_counts_nan_as_wrong() -> None:
    expected = torch.ones(2, 3)
    assert difference(expected, expected) is None
    found = difference(torch.full((2, 3), float("nan")), expected)
    assert found == "6 of 6 values differ, the first at [0, 0]: nan instead of 1"


def test_difference_allows_two_roundings_of_bfloat16() -> None:
    expected = torch.ones(1, dtype=torch.bfloat16)
    assert difference(expected * (1 + 2**-7), expected) is None
    assert difference(expected * (1 + 2**-5), expected) is not None


def test_difference_names_other_shape_or_dtype() -> None:
    ids = torch.ones(2, dtype=torch.int64)
    assert difference(ids.int(), ids) == "torch.int32 [2] instead of torch.int64 [2]"
    assert difference(torch.tensor([1, 2]), ids) is not None
