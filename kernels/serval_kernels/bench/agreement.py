"""Comparison of a path's result with the definition: no time is reported for a wrong result.

Sums may be rounded differently by a correct path, and so may the scores of the router. Its choice is
compared exactly all the same, except between experts that are equal within rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from serval_kernels.route_topk import DROPPED, Routing

# Float32 sums of a few thousand products of ordinary size, in another order.
_SUM_NOISE = 2e-5

# Relative error of a score in float32. Each of its three operations adds some units of 2^-24: the exponential
# 2, and |logit - peak| of them, up to about 16, for rounding its argument; the sum of 384 terms up to 16 in
# the longest chain of additions; the division 1. Twice the total of 35 is 70, below 2^-17.
_SCORE_ERROR = 2.0**-17
# Candidates, score + bias, are rounded once more.
_CANDIDATE_ERROR = 2.0**-23
# Weights are scores times the scaling factor; identity weights are sums of up to twelve of them.
_WEIGHT_ERROR = 4 * _SCORE_ERROR


def difference(result: Tensor, expected: Tensor, *, slack: float = 0.0) -> str | None:
    """Say where `result` differs from `expected`; None if nowhere.

    Integers must be equal, floats within two roundings to their dtype, plus `slack`: the absolute error that
    a path may add by rounding intermediate results.
    """
    if (result.shape, result.dtype) != (expected.shape, expected.dtype):
        return f"{result.dtype} {list(result.shape)} instead of {expected.dtype} {list(expected.shape)}"
    if not expected.is_floating_point():
        wrong = result != expected
    else:
        exact = expected.double()
        bound = 2 * torch.finfo(expected.dtype).eps * exact.abs() + slack + _SUM_NOISE
        # Negated, so that NaN counts as wrong.
        wrong = ~((result.double() - exact).abs() <= bound)
    place = _first(wrong)
    if place is None:
        return None
    return (
        f"{int(wrong.sum()):,} of {wrong.numel():,} values differ, the first at {list(place)}: "
        f"{result[place].item():.6g} instead of {expected[place].item():.6g}"
    )


def routing_difference(
    routing: Routing, logits: Tensor, bias: Tensor, *, routed_experts: int, scaling_factor: float
) -> str | None:
    """Say how `routing` differs from the choice that exact arithmetic makes; None if not at all.

    Scores are computed in float64. An expert above the last place by more than two correct float32
    computations can differ must be chosen, one below it by more must not, and the weight of each must be its
    score. Between experts closer than that, either choice is right. Shapes and dtypes are those of
    `route_topk`.
    """
    scores = logits.double().softmax(dim=1)
    possible, certain = _choices(scores, bias.double(), routing.weights.shape[1])
    ids = routing.expert_ids.long()
    is_kept = ids != DROPPED
    if place := _first(is_kept & ((ids < 0) | (ids >= routed_experts))):
        return f"token {place[0]} has expert {ids[place]}, outside of the {routed_experts} routed experts"
    counts = torch.zeros(len(ids), routed_experts, dtype=torch.int64, device=ids.device)
    counts.scatter_add_(1, ids.clamp(min=0), is_kept.long())
    if place := _first(counts > 1):
        return f"token {place[0]} has expert {place[1]} twice"
    if place := _first((counts > 0) & ~possible[:, :routed_experts]):
        return f"token {place[0]} has expert {place[1]}, which is not among the highest candidates"
    if place := _first((counts == 0) & certain[:, :routed_experts]):
        return f"token {place[0]} lacks expert {place[1]}, which is among the highest candidates"
    slots = (~is_kept).sum(dim=1)
    fewest, most = (mask[:, routed_experts:].sum(dim=1) for mask in (certain, possible))
    if place := _first((slots < fewest) | (slots > most)):
        return f"token {place[0]} has {slots[place]} identity slots, not {fewest[place]} to {most[place]}"
    return _weight_difference(routing, scores * scaling_factor, possible, certain, routed_experts)


def _choices(scores: Tensor, bias: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return masks [T, experts] of those that may be chosen, and of those that must be."""
    candidates = scores + bias
    last = candidates.topk(top_k, dim=1).values[:, -1:]
    error = _SCORE_ERROR * scores + _CANDIDATE_ERROR * candidates.abs()
    tie = 2 * error.amax(dim=1, keepdim=True)
    possible = candidates >= last - tie
    is_unique = possible.sum(dim=1, keepdim=True) == top_k
    return possible, torch.where(is_unique, possible, candidates > last + tie)


def _weight_difference(
    routing: Routing, exact: Tensor, possible: Tensor, certain: Tensor, routed_experts: int
) -> str | None:
    """Compare weights with `exact` ones [T, experts], in float64."""
    ids = routing.expert_ids.long()
    expected = torch.where(ids == DROPPED, 0.0, exact.gather(1, ids.clamp(min=0)))
    off = (routing.weights.double() - expected).abs()
    if place := _first(~(off <= _WEIGHT_ERROR * expected)):
        given = f"{routing.weights[place]:.6g} instead of {expected[place]:.6g}"
        return f"token {place[0]} has weight {given} for expert {ids[place]}"
    # Among ties, some of the identity experts that may be chosen are.
    identity = exact[:, routed_experts:]
    least, most = ((identity * mask[:, routed_experts:]).sum(dim=1) for mask in (certain, possible))
    weight, error = routing.identity_weight.double(), _WEIGHT_ERROR * most
    if place := _first(~((weight >= least - error) & (weight <= most + error))):
        return f"token {place[0]} has identity weight {weight[place]:.6g} instead of {most[place]:.6g}"
    return None


def _first(wrong: Tensor) -> tuple[int, ...] | None:
    """Return the index of the first true value."""
    return tuple(wrong.nonzero()[0].tolist()) if wrong.any() else None
