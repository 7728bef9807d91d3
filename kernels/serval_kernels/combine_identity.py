"""Sum of routed and identity experts in one pass: scale · routed + w · tokens (+ residual).

An identity expert returns the token itself, so a token's identity experts add up to the token times the sum
of their weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from serval_kernels.checks import FLOATS, check_in_place, check_tensor
from serval_kernels.launch import jit, launch, power_of_two, runs_on_triton, tl

_MAX_BLOCK = 1024  # 8 elements, 16 bytes of bfloat16, for each thread of four warps


def combine_identity(
    routed: Tensor,
    tokens: Tensor,
    identity_weight: Tensor,
    *,
    routed_scale: float = 1.0,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return `routed_scale` · `routed` + `identity_weight` · `tokens` (+ `residual`).

    - `routed` [T, H]: output of the routed experts
    - `tokens` [T, H]: their input
    - `identity_weight` float32 [T]: as `route_topk` returns it
    - `routed_scale`: 1 where the experts' weights are scaled already
    - `residual` [T, H]: added unless None
    - `out` [T, H]: receives the result; may be `routed`, `tokens` or `residual` itself

    The result has the dtype of `routed`; it is computed in float32 and rounded once.

    Raises `TypeError` if dtypes differ or are not float32, bfloat16 or float16, and `ValueError` if shapes or
    devices differ, a tensor is not contiguous, or `out` overlaps an input.
    """
    compute = combine_identity_triton if runs_on_triton(routed) else combine_identity_reference
    return compute(routed, tokens, identity_weight, routed_scale=routed_scale, residual=residual, out=out)


def combine_identity_reference(
    routed: Tensor,
    tokens: Tensor,
    identity_weight: Tensor,
    *,
    routed_scale: float = 1.0,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`combine_identity` in torch."""
    _check(routed, tokens, identity_weight, residual, out)
    # addcmul() takes twice as long on a CPU when a column is broadcast.
    total = torch.mul(tokens.float(), identity_weight[:, None]).add_(routed, alpha=routed_scale)
    if residual is not None:
        total.add_(residual)
    return total.to(routed.dtype) if out is None else out.copy_(total)


def combine_identity_triton(
    routed: Tensor,
    tokens: Tensor,
    identity_weight: Tensor,
    *,
    routed_scale: float = 1.0,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`combine_identity` in one launch, which reads and writes each element once."""
    _check(routed, tokens, identity_weight, residual, out)
    result = torch.empty_like(routed) if out is None else out
    count, hidden = routed.shape
    if result.numel() == 0:
        return result
    block = min(power_of_two(hidden), _MAX_BLOCK)
    launch(
        _combine_kernel,
        (count, -(-hidden // block)),
        routed.device,
        routed,
        tokens,
        identity_weight,
        residual,
        result,
        routed_scale,
        hidden,
        HAS_RESIDUAL=residual is not None,
        BLOCK=block,
        num_warps=4,
    )
    return result


@jit()
def _combine_kernel(  # type: ignore[no-untyped-def]
    routed_ptr,
    tokens_ptr,
    weight_ptr,
    residual_ptr,
    out_ptr,
    routed_scale,
    hidden,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < hidden
    place = row * hidden + column
    weight = tl.load(weight_ptr + row)
    routed = tl.load(routed_ptr + place, mask=inside, other=0.0).to(tl.float32)
    token = tl.load(tokens_ptr + place, mask=inside, other=0.0).to(tl.float32)
    total = routed * routed_scale + token * weight
    if HAS_RESIDUAL:
        total += tl.load(residual_ptr + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=inside)


def _check(
    routed: Tensor, tokens: Tensor, identity_weight: Tensor, residual: Tensor | None, out: Tensor | None
) -> None:
    check_tensor("routed", routed, shape=("T", "H"), dtypes=FLOATS)
    shape, dtypes, device = tuple(routed.shape), (routed.dtype,), routed.device
    check_tensor("tokens", tokens, shape=shape, dtypes=dtypes, device=device)
    check_tensor("identity_weight", identity_weight, shape=shape[:1], dtypes=(torch.float32,), device=device)
    if residual is not None:
        check_tensor("residual", residual, shape=shape, dtypes=dtypes, device=device)
    if out is not None:
        check_tensor("out", out, shape=shape, dtypes=dtypes, device=device)
        inputs = [routed, tokens] if residual is None else [routed, tokens, residual]
        check_in_place("out", out, inputs)
