"""The routed experts on a CPU, one after another."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def run_experts(layer: Any, x: Tensor, topk_output: Any, moe_runner_config: Any) -> Tensor:
    """Replace sglang.srt.layers.moe.fused_moe_native.moe_forward_native, which cannot index the id -1.

    `layer` is a FusedMoE without biases: w13_weight [E, 2I, H] with gates first, w2_weight [E, H, I]. The
    other arguments are as for `sum_of_experts`.
    """
    return sum_of_experts(
        lambda expert: (layer.w13_weight[expert], layer.w2_weight[expert]), x, topk_output, moe_runner_config
    )


def sum_of_experts(
    weights_of: Callable[[int], tuple[Tensor, Tensor]], x: Tensor, topk_output: Any, moe_runner_config: Any
) -> Tensor:
    """Compute the experts of `x` [T, H]; return [T, H] in its dtype, summed over slots in float32.

    `weights_of` returns an expert's weights in the dtype of `x`: [2I, H] with gates first, and [H, I].
    `topk_output` has weights float32 [T, k] and local expert ids [T, k], negative for a slot to skip.

    Raises `NotImplementedError` if the experts are not of LongCat's kind.
    """
    if moe_runner_config.activation != "silu" or moe_runner_config.apply_router_weight_on_input:
        raise NotImplementedError(
            "the CPU experts compute SwiGLU weighted after the experts, got "
            f"activation={moe_runner_config.activation!r}, "
            f"apply_router_weight_on_input={moe_runner_config.apply_router_weight_on_input!r}."
        )
    weights, expert_ids, _ = topk_output
    slots_by_expert = expert_ids.flatten()
    order = slots_by_expert.argsort(stable=True)
    skipped = int((slots_by_expert < 0).sum())
    experts, counts = slots_by_expert[order[skipped:]].unique_consecutive(return_counts=True)
    output = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert, slots in zip(experts.tolist(), order[skipped:].split(counts.tolist()), strict=True):
        tokens = slots // expert_ids.shape[1]
        gates_and_ups, downs = weights_of(expert)
        gate, up = F.linear(x[tokens], gates_and_ups).chunk(2, dim=-1)
        result = F.linear(F.silu(gate) * up, downs)
        output.index_add_(0, tokens, result * weights.flatten()[slots, None])
    return output.to(x.dtype)
