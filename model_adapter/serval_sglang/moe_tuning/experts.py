"""Experts of one rank with random weights and routing, and the definition of their output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from serval_sglang.config import LongcatConfig
from serval_sglang.tuned_moe import rank_experts

WeightDtype = Literal["bf16", "fp8"]

BLOCK = 128  # rows and columns of an FP8 weight that share a scale
DROPPED = -1
_LARGEST_FP8 = 448.0


@dataclass(frozen=True)
class Shape:
    """Sizes of one rank's experts and of the choice among all experts."""

    experts: int  # routed ones on this rank
    width: int
    hidden: int
    top_k: int
    routed_experts: int  # on all ranks
    all_experts: int  # with identity experts
    dtype: WeightDtype

    @property
    def block_shape(self) -> list[int] | None:
        return [BLOCK, BLOCK] if self.dtype == "fp8" else None


def expert_shape(config: LongcatConfig, *, tp: int, ep: int, dtype: WeightDtype) -> Shape:
    """Return the shape on each rank of an engine."""
    experts, width = rank_experts(config, tp=tp, ep=ep)
    return Shape(
        experts=experts,
        width=width,
        hidden=config.hidden_size,
        top_k=config.moe_topk,
        routed_experts=config.n_routed_experts,
        all_experts=config.n_routed_experts + config.zero_expert_num,
        dtype=dtype,
    )


@dataclass(frozen=True)
class Experts:
    """Weights of one rank: bfloat16, or float8_e4m3fn with a float32 scale for each block.

    - `w13` [experts, 2 * width, hidden]: gate, then up
    - `w2` [experts, hidden, width]
    """

    w13: Tensor
    w2: Tensor
    w13_scale: Tensor | None = None
    w2_scale: Tensor | None = None


@dataclass(frozen=True)
class Tokens:
    """A batch: `hidden` bfloat16 [T, hidden], `weights` float32 [T, k], `ids` int32 [T, k], -1 where the slot
    belongs to an identity expert or to another rank."""

    hidden: Tensor
    weights: Tensor
    ids: Tensor


def random_experts(shape: Shape, device: torch.device) -> Experts:
    """Draw weights so that outputs are of the size of inputs."""
    w13 = torch.empty(shape.experts, 2 * shape.width, shape.hidden, dtype=torch.bfloat16, device=device)
    w2 = torch.empty(shape.experts, shape.hidden, shape.width, dtype=torch.bfloat16, device=device)
    w13.normal_(std=shape.hidden**-0.5)
    w2.normal_(std=shape.width**-0.5)
    if shape.dtype == "bf16":
        return Experts(w13, w2)
    (w13_codes, w13_scale), (w2_codes, w2_scale) = _quantized(w13), _quantized(w2)
    return Experts(w13_codes, w2_codes, w13_scale, w2_scale)


def random_tokens(shape: Shape, count: int, device: torch.device) -> Tokens:
    """Draw `count` tokens, each with `top_k` different experts, all equally likely."""
    ids = torch.rand(count, shape.all_experts, device=device).topk(shape.top_k, dim=1).indices
    return Tokens(
        hidden=torch.randn(count, shape.hidden, device=device).bfloat16(),
        weights=torch.rand(count, shape.top_k, device=device),
        # This rank has the first experts; all ranks are alike.
        ids=ids.masked_fill(ids >= shape.experts, DROPPED).int(),
    )


def expected_output(experts: Experts, tokens: Tokens) -> Tensor:
    """Return weight · W2 (silu(gate) · up) of each slot, 0 where it has no expert: float32 [T, k, hidden]."""
    output = torch.zeros(*tokens.ids.shape, tokens.hidden.shape[1], device=tokens.hidden.device)
    for expert in range(len(experts.w13)):
        token, slot = (tokens.ids == expert).nonzero(as_tuple=True)
        if len(token):
            inner = (
                tokens.hidden[token].float() @ _dequantized(experts.w13[expert], experts.w13_scale, expert).T
            )
            gate, up = inner.chunk(2, dim=1)
            value = (gate.sigmoid() * gate * up) @ _dequantized(
                experts.w2[expert], experts.w2_scale, expert
            ).T
            output[token, slot] = tokens.weights[token, slot, None] * value
    return output


def largest_error(output: Tensor, expected: Tensor) -> float:
    """Return the largest error of a slot, relative to the length of the expected vector, both [T, k, hidden].

    Infinite where a slot without an expert is not zero, or where something is not finite.
    """
    off = (output.float() - expected).norm(dim=-1)
    length = expected.norm(dim=-1)
    relative = torch.where(off == 0, 0.0, off / length)
    return float(relative.nan_to_num(nan=float("inf"), posinf=float("inf")).amax())


def _quantized(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes and the scales of whole blocks. One expert at a time, which bounds the temporaries."""
    rows, columns = weights.shape[1] // BLOCK, weights.shape[2] // BLOCK
    codes = torch.empty_like(weights, dtype=torch.float8_e4m3fn)
    scales = torch.empty(len(weights), rows, columns, device=weights.device)
    for expert, matrix in enumerate(weights):
        blocks = matrix.float().view(rows, BLOCK, columns, BLOCK)
        scales[expert] = blocks.abs().amax(dim=(1, 3)) / _LARGEST_FP8
        codes[expert] = (blocks / scales[expert][:, None, :, None]).view_as(matrix).to(codes.dtype)
    return codes, scales


def _dequantized(matrix: Tensor, scales: Tensor | None, expert: int) -> Tensor:
    if scales is None:
        return matrix.float()
    whole = scales[expert].repeat_interleave(BLOCK, dim=0).repeat_interleave(BLOCK, dim=1)
    return matrix.float() * whole
