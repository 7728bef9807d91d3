"""Block-wise FP8 layers on a CPU compute with the values of their codes and scales."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from serval_sglang.checkpoint.fp8 import dequantize_blocks, quantize_blocks

block_fp8 = pytest.importorskip("serval_sglang.cpu_compat.block_fp8", reason="needs SGLang")

GENERATOR = torch.Generator().manual_seed(3)
METHOD = SimpleNamespace(
    weight_block_size=[128, 128],
    moe_runner_config=SimpleNamespace(activation="silu", apply_router_weight_on_input=False),
)


def coded(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scales = zip(
        *(quantize_blocks(torch.randn(shape[1:], generator=GENERATOR)) for _ in range(shape[0])), strict=True
    )
    return torch.stack(codes), torch.stack(scales)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_equals_dequantised_product(dtype: torch.dtype) -> None:
    codes, scales = quantize_blocks(torch.randn(224, 200, generator=GENERATOR))
    x, bias = torch.randn(3, 200, generator=GENERATOR).to(dtype), torch.randn(224).to(dtype)
    layer = SimpleNamespace(weight=codes, weight_scale_inv=scales)
    got = block_fp8.linear(METHOD, layer, x, bias)
    assert got.dtype == dtype
    torch.testing.assert_close(got, F.linear(x, dequantize_blocks(codes, scales).to(dtype), bias))
    block_fp8.keep_codes(METHOD, layer)
    assert layer.weight is codes


def test_experts_equal_dequantised_experts() -> None:
    (w13, s13), (w2, s2) = coded(3, 256, 130), coded(3, 130, 128)
    layer = SimpleNamespace(w13_weight=w13, w13_weight_scale_inv=s13, w2_weight=w2, w2_weight_scale_inv=s2)
    x = torch.randn(2, 130, generator=GENERATOR)
    # The second token has one slot without an expert.
    weights, ids = torch.tensor([[0.5, 2.0], [1.5, 1.0]]), torch.tensor([[2, 0], [1, -1]])
    given = SimpleNamespace(hidden_states=x, topk_output=(weights, ids, None))

    def one(token: int, expert: int) -> torch.Tensor:
        gate, up = F.linear(x[token], dequantize_blocks(w13[expert], s13[expert])).chunk(2)
        return F.linear(F.silu(gate) * up, dequantize_blocks(w2[expert], s2[expert]))

    expected = torch.stack((0.5 * one(0, 2) + 2.0 * one(0, 0), 1.5 * one(1, 1)))
    got = block_fp8.experts(METHOD, layer, given).hidden_states
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_expanded_does_not_round_again() -> None:
    codes, scales = quantize_blocks(torch.randn(256, 32, generator=GENERATOR))
    weight, scale = block_fp8.expanded(codes, scales, [128, 128])
    assert scale is None
    assert torch.equal(weight, dequantize_blocks(codes, scales))
