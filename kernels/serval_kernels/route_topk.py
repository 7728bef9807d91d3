"""LongCat's router: the experts of each token, their weights, and the weight of the token itself.

scores = softmax(logits) over routed and identity experts; the k experts with the highest score + bias are
chosen; the weight of each is its score (without the bias, not renormalised) times the scaling factor. Experts
from `routed_experts` on are identity experts: they return the token itself with the same weight, so their
slots need no expert computation. Source: LongCat-Flash technical report (arXiv:2509.01322), section 2.1;
transformers' modeling_longcat_flash.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from serval_kernels.checks import check_tensor
from serval_kernels.launch import jit, launch, power_of_two, runs_on_triton, tl

DROPPED = -1  # the id that SGLang's MoE runners and dispatchers skip


class Routing(NamedTuple):
    """Experts and weights of each token. The order of a token's slots is unspecified."""

    weights: Tensor  # float32 [T, k], scaled; 0 in identity slots
    expert_ids: Tensor  # int32 [T, k]; DROPPED in identity slots
    identity_weight: Tensor  # float32 [T], the scaled weights of the identity slots summed


def route_topk(
    logits: Tensor, bias: Tensor, *, top_k: int, routed_experts: int, scaling_factor: float
) -> Routing:
    """Choose `top_k` experts for each token.

    - `logits` float32 [T, routed + identity experts]: lower precision would decide near ties differently
    - `bias` float32 [routed + identity experts]: affects the choice but not the weights

    Raises `TypeError` if `logits` or `bias` is not float32, and `ValueError` if shapes or devices do not
    match, or `top_k` or `routed_experts` exceeds the number of experts.
    """
    compute = route_topk_triton if runs_on_triton(logits) else route_topk_reference
    return compute(logits, bias, top_k=top_k, routed_experts=routed_experts, scaling_factor=scaling_factor)


def route_topk_reference(
    logits: Tensor, bias: Tensor, *, top_k: int, routed_experts: int, scaling_factor: float
) -> Routing:
    """`route_topk` in torch."""
    _check(logits, bias, top_k=top_k, routed_experts=routed_experts)
    scores = logits.softmax(dim=-1)
    chosen = (scores + bias).topk(top_k, dim=-1, sorted=False).indices  # [T, k]
    weights = scores.gather(1, chosen) * scaling_factor
    is_identity = chosen >= routed_experts
    return Routing(
        weights=weights.masked_fill(is_identity, 0.0),
        expert_ids=chosen.masked_fill(is_identity, DROPPED).int(),
        identity_weight=weights.masked_fill(~is_identity, 0.0).sum(dim=-1),
    )


def route_topk_triton(
    logits: Tensor, bias: Tensor, *, top_k: int, routed_experts: int, scaling_factor: float
) -> Routing:
    """`route_topk` in one launch. Ties go to the lower id; NaN counts as highest."""
    _check(logits, bias, top_k=top_k, routed_experts=routed_experts)
    count, experts = logits.shape
    routing = Routing(
        weights=torch.empty(count, top_k, dtype=torch.float32, device=logits.device),
        expert_ids=torch.empty(count, top_k, dtype=torch.int32, device=logits.device),
        identity_weight=torch.empty(count, dtype=torch.float32, device=logits.device),
    )
    if count == 0:
        return routing
    block = power_of_two(experts)
    launch(
        _route_kernel,
        (count,),
        logits.device,
        logits,
        bias,
        *routing,
        scaling_factor,
        experts,
        routed_experts,
        TOP_K=top_k,
        SLOTS=power_of_two(top_k),
        BLOCK=block,
        DROPPED_ID=DROPPED,
        # One warp with 16 experts per thread keeps the k reductions of Lite within registers and shuffles.
        num_warps=min(max(block // 512, 1), 8),
    )
    return routing


@jit()
def _route_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,
    bias_ptr,
    weights_ptr,
    ids_ptr,
    identity_ptr,
    scaling_factor,
    experts,
    routed_experts,
    TOP_K: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK: tl.constexpr,
    DROPPED_ID: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BLOCK)
    real = expert < experts
    logits_row = logits_ptr + token * experts
    logits = tl.load(logits_row + expert, mask=real, other=float("-inf"))
    peak = tl.max(logits, axis=0)
    raised = tl.exp(logits - peak)
    total = tl.sum(raised, axis=0)
    biased = tl.div_rn(raised, total) + tl.load(bias_ptr + expert, mask=real, other=0.0)

    # With candidate and id in one integer, one reduction finds the highest, and among ties the lowest id. The
    # bits of a float order like an integer once those of negative numbers are flipped.
    bits = biased.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    candidate = (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - expert).to(tl.int64)
    taken = tl.full([BLOCK], -(2**63), tl.int64)
    candidate = tl.where(real, candidate, taken)
    slot = tl.arange(0, SLOTS)
    chosen = tl.zeros([SLOTS], tl.int32)
    for i in range(TOP_K):
        best = tl.max(candidate, axis=0)
        chosen = tl.where(slot == i, 0x7FFFFFFF - (best & 0x7FFFFFFF).to(tl.int32), chosen)
        candidate = tl.where(candidate == best, taken, candidate)

    # Repeating the arithmetic on the same logits is cheaper than moving the scores between threads.
    filled = (slot < TOP_K) & (chosen < experts)
    logit = tl.load(logits_row + chosen, mask=filled, other=float("-inf"))
    weight = tl.div_rn(tl.exp(logit - peak), total) * scaling_factor
    is_identity = chosen >= routed_experts
    place = token * TOP_K + slot
    tl.store(weights_ptr + place, tl.where(is_identity, 0.0, weight), mask=slot < TOP_K)
    tl.store(ids_ptr + place, tl.where(is_identity, DROPPED_ID, chosen), mask=slot < TOP_K)
    identity_weight = tl.sum(tl.where(is_identity & filled, weight, 0.0), axis=0)
    tl.store(identity_ptr + token, identity_weight)


def _check(logits: Tensor, bias: Tensor, *, top_k: int, routed_experts: int) -> None:
    check_tensor("logits", logits, shape=("T", "experts"), dtypes=(torch.float32,))
    experts = logits.shape[1]
    check_tensor("bias", bias, shape=(experts,), dtypes=(torch.float32,), device=logits.device)
    if not 1 <= top_k <= experts:
        raise ValueError(f"top_k must be between 1 and the {experts} experts of logits, got {top_k!r}.")
    if not 0 <= routed_experts <= experts:
        raise ValueError(
            f"routed_experts must be between 0 and the {experts} experts of logits, got {routed_experts!r}."
        )
