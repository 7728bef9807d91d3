"""Router and identity experts at the width of LongCat-Flash-Lite."""

from typing import Any

import torch

from serval_kernels.bench.sizes import LITE
from serval_kernels.combine_identity import combine_identity_reference, combine_identity_triton
from serval_kernels.device_check.compare import require_close
from serval_kernels.route_topk import route_topk_reference, route_topk_triton

_TOKENS = {"cuda": (1, 7, 256, 8192), "cpu": (1, 3)}
_SCALE = 6.0
# Candidates whose scores differ by less may swap between two ways to compute a softmax in float32.
_TIE = 1e-7


def check_router(device: torch.device) -> str:
    """Compare experts and weights with torch's, leaving out tokens whose choice is a tie."""
    generator, ties, total = torch.Generator(device=device).manual_seed(0), 0, 0
    options: dict[str, Any] = {
        "top_k": LITE.top_k,
        "routed_experts": LITE.routed_experts,
        "scaling_factor": _SCALE,
    }
    for tokens in _TOKENS[device.type]:
        logits = torch.randn(tokens, LITE.experts, generator=generator, device=device)
        bias = torch.randn(LITE.experts, generator=generator, device=device) / LITE.experts
        got = route_topk_triton(logits, bias, **options)
        expected = route_topk_reference(logits, bias, **options)
        edge = (logits.softmax(dim=-1) + bias).topk(LITE.top_k + 1, dim=-1).values[:, -2:]
        decided = edge[:, 0] - edge[:, 1] > _TIE
        by_id, expected_by_id = got.expert_ids.sort(dim=1), expected.expert_ids.sort(dim=1)
        require_close(f"experts of {tokens} tokens", by_id.values[decided], expected_by_id.values[decided])
        weights = got.weights.gather(1, by_id.indices)[decided]
        expected_weights = expected.weights.gather(1, expected_by_id.indices)[decided]
        # Identity slots share one id, but also one weight: 0.
        require_close(f"weights of {tokens} tokens", weights, expected_weights, rtol=1e-5, atol=1e-6)
        require_close(
            f"identity weights of {tokens} tokens",
            got.identity_weight[decided],
            expected.identity_weight[decided],
            rtol=1e-5,
            atol=1e-6,
        )
        ties, total = ties + int((~decided).sum()), total + tokens
    if ties > 0.01 * total:
        raise AssertionError(f"{ties} of {total} tokens were left out as ties: too many to judge by.")
    return f"{total:,} tokens, {ties} ties left out"


def check_identity_experts(device: torch.device) -> str:
    """Compare the sum of both kinds of experts in bfloat16 with torch's, in place and with a residual."""
    generator = torch.Generator(device=device).manual_seed(1)
    # Both compute in float32 and round once: a unit in the last place at a boundary between two values, and
    # under the interpreter, which truncates.
    rtol = 2**-7
    for tokens in _TOKENS[device.type]:
        routed, hidden, residual = (
            torch.randn(tokens, LITE.hidden, generator=generator, device=device).bfloat16() for _ in range(3)
        )
        weight = torch.rand(tokens, generator=generator, device=device)
        for added in (None, residual):
            expected = combine_identity_reference(routed, hidden, weight, residual=added).float()
            out = routed.clone()
            got = combine_identity_triton(out, hidden, weight, residual=added, out=out).float()
            require_close(f"sum of {tokens} tokens", got, expected, rtol=rtol, atol=1e-6)
    return f"{sum(_TOKENS[device.type]):,} tokens in bfloat16, with and without a residual"
