"""What the mixture adds to its routed experts, with stand-ins for these."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

moe = pytest.importorskip("serval_sglang.layers.moe", reason="needs SGLang")
ROUTED, IDENTITY, TOP_K, SCALE, HIDDEN = 6, 3, 4, 6.0, 8


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*, ep_rank: int = 0, tp_rank: int = 0, complete: bool = False) -> Any:
        parallel = SimpleNamespace(moe_ep_rank=ep_rank, moe_tp_rank=tp_rank)
        monkeypatch.setattr(moe, "get_parallel", lambda: parallel)
        monkeypatch.setattr(moe, "post_experts_output_is_complete", lambda is_tp_path: complete)
        made = moe.LongcatFlashMoE.__new__(moe.LongcatFlashMoE)
        torch.nn.Module.__init__(made)
        torch.manual_seed(1)
        bias = torch.randn(ROUTED + IDENTITY) / 10
        made.__dict__.update(
            router=_Router(torch.randn(ROUTED + IDENTITY, HIDDEN), bias),
            experts=_emptying_experts,
            top_k=TOP_K,
            num_experts=ROUTED,
            zero_expert_num=IDENTITY,
            routed_scaling_factor=SCALE,
        )
        return made

    return make


class _Router:
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.e_score_correction_bias = weight, bias

    def __call__(self, hidden_states: Tensor) -> Tensor:
        return hidden_states @ self.weight.t()


def _emptying_experts(hidden_states: Tensor, topk: Any) -> Tensor:
    """Expert e multiplies by e + 1, then empties its input as some of SGLang's runners do."""
    weights = torch.where(topk.topk_ids >= 0, topk.topk_weights * (topk.topk_ids + 1), 0.0).sum(dim=1)
    output = hidden_states * weights[:, None]
    hidden_states.set_(torch.empty(0))
    return output


def expected(made: Any, tokens: Tensor, *, with_identity: bool) -> Tensor:
    scores = made.router(tokens).softmax(dim=-1)
    chosen = (scores + made.router.e_score_correction_bias).topk(TOP_K).indices
    weights = scores.gather(1, chosen) * SCALE
    factors = torch.where(chosen < ROUTED, chosen + 1, int(with_identity))
    return tokens * (weights * factors).sum(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("rank", "with_identity"),
    [
        ({}, True),
        ({"ep_rank": 1}, False),
        ({"tp_rank": 1}, False),
        # Nothing is summed over ranks afterwards: each adds its own.
        ({"ep_rank": 1, "complete": True}, True),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 17])
def test_identity_experts_are_scaled_and_added_by_one_rank(
    build: Any, rank: dict[str, Any], with_identity: bool, count: int
) -> None:
    made = build(**rank)
    tokens = torch.randn(count, HIDDEN)
    before = tokens.clone()
    torch.testing.assert_close(made.forward(tokens), expected(made, before, with_identity=with_identity))
    # The dense branch reads them too.
    assert torch.equal(tokens, before)
