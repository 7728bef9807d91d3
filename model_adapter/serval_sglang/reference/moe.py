"""The mixture of experts: router, routed experts, and identity ("zero-computation") experts.

Sources: LongCat-Flash technical report (arXiv:2509.01322), section 2.1; transformers'
modeling_longcat_flash.py, classes LongcatFlashTopkRouter and LongcatFlashExperts.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from serval_sglang.config import LongcatConfig
from serval_sglang.reference.layers import Linear, SwiGLU


class Routing(NamedTuple):
    """Decision of one layer's router. Ids from `n_routed_experts` on are identity experts."""

    expert_ids: Tensor  # int64 [..., top-k], in no particular order
    weights: Tensor  # [..., top-k], routed_scaling_factor included
    scores: Tensor  # [..., routed + identity experts], softmax over all: the input of a balancing loss


class Router(nn.Module):
    """softmax over all experts; top-k by score + bias, but weighted by the score alone, not renormalised."""

    e_score_correction_bias: Tensor

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.config = config
        self.classifier = Linear(config.hidden_size, config.num_experts_total)
        # A buffer, because balancing changes it by rule and not by gradient.
        self.register_buffer("e_score_correction_bias", torch.zeros(config.num_experts_total))

    def forward(self, x: Tensor) -> Routing:
        """Route `x` [..., H]. Scores are at least float32, because lower precision changes near ties."""
        logits = self.classifier(x.to(torch.promote_types(x.dtype, torch.float32)))
        scores = logits.softmax(dim=-1)
        biased = scores.detach() + self.e_score_correction_bias
        expert_ids = biased.topk(self.config.moe_topk, dim=-1, sorted=False).indices
        weights = scores.gather(-1, expert_ids) * self.config.routed_scaling_factor
        return Routing(expert_ids, weights, scores)


class MixtureOfExperts(nn.Module):
    """y = Σ_{chosen e} w_e · expert_e(x), where an identity expert returns x itself with the same weight."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.config = config
        self.router = Router(config)
        self.experts = nn.ModuleList(
            SwiGLU(config.hidden_size, config.expert_ffn_hidden_size) for _ in range(config.n_routed_experts)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """Map `x` [..., H] to output [..., H] and the routing with the same leading dimensions."""
        routing: Routing = self.router(x)
        tokens = x.flatten(0, -2)  # [N, H]
        expert_ids = routing.expert_ids.flatten(0, -2)  # [N, top-k]
        weights = routing.weights.flatten(0, -2).to(x.dtype)

        is_identity = expert_ids >= self.config.n_routed_experts
        output = tokens * (weights * is_identity).sum(-1, keepdim=True)

        # Slots are sorted by expert, so that each expert gets its tokens as one block.
        order = expert_ids.flatten().argsort(stable=True)
        counts = expert_ids.flatten().bincount(minlength=self.config.num_experts_total)
        slots_by_expert = order.tensor_split(counts.cumsum(0).cpu())[: self.config.n_routed_experts]
        for expert, slots in zip(self.experts, slots_by_expert, strict=True):
            if slots.numel() == 0:
                continue
            token = slots // self.config.moe_topk
            scaled = expert(tokens[token]) * weights.flatten()[slots, None]
            output = output.index_add(0, token, scaled)
        return output.view_as(x), routing
