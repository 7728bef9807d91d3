"""The CPU experts against one token and one expert at a time."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from serval_sglang.cpu_compat.experts import run_experts

EXPERTS, HIDDEN, INTERMEDIATE, TOP_K = 5, 12, 7, 4
CONFIG = SimpleNamespace(activation="silu", apply_router_weight_on_input=False)


def layer_and_tokens(tokens: int) -> tuple[SimpleNamespace, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    layer = SimpleNamespace(
        w13_weight=torch.randn(EXPERTS, 2 * INTERMEDIATE, HIDDEN, generator=generator),
        w2_weight=torch.randn(EXPERTS, HIDDEN, INTERMEDIATE, generator=generator),
    )
    x = torch.randn(tokens, HIDDEN, generator=generator)
    weights = torch.rand(tokens, TOP_K, generator=generator)
    # -1 marks slots of identity experts, and of experts on other ranks.
    ids = torch.randint(-1, EXPERTS, (tokens, TOP_K), generator=generator, dtype=torch.int32)
    return layer, x, weights, ids


@pytest.mark.parametrize("tokens", [0, 1, 33])
def test_run_experts_skips_marked_slots_and_adds_others(tokens: int) -> None:
    layer, x, weights, ids = layer_and_tokens(tokens)
    expected = torch.zeros_like(x)
    for token in range(tokens):
        for slot in range(TOP_K):
            expert = int(ids[token, slot])
            if expert >= 0:
                gate, up = (layer.w13_weight[expert] @ x[token]).chunk(2)
                expected[token] += weights[token, slot] * (layer.w2_weight[expert] @ (F.silu(gate) * up))
    got = run_experts(layer, x, (weights, ids, None), CONFIG)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_run_experts_returns_zeros_if_all_slots_are_marked() -> None:
    layer, x, weights, ids = layer_and_tokens(3)
    assert not run_experts(layer, x, (weights, torch.full_like(ids, -1), None), CONFIG).any()


def test_run_experts_refuses_other_activation() -> None:
    layer, x, weights, ids = layer_and_tokens(1)
    config = SimpleNamespace(activation="gelu", apply_router_weight_on_input=False)
    with pytest.raises(NotImplementedError, match="activation='gelu'"):
        run_experts(layer, x, (weights, ids, None), config)
