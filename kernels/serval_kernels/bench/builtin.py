"""SGLang 0.5.23's algorithms for the same operations, written plainly in torch.

They follow sglang/srt/layers/n_gram_embedding.py, sglang/srt/models/longcat_flash.py,
sglang/srt/layers/moe/topk.py and sglang/kernels/ops/moe/ep_moe_kernels.py. Only their cost matters here: like
the originals, they do not scale the identity experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def embed(row_ids: Tensor, table: Tensor, projections: Tensor, tokens: Tensor, words: Tensor) -> Tensor:
    """Write all 1 + tables terms [1 + tables, T, H] to memory, then return their mean [T, H].

    Shapes: `row_ids` int32 [T, tables], `table` [rows, width], `projections` [tables, width, H], `tokens`
    [T], `words` [V, H].
    """
    terms = torch.empty(
        1 + row_ids.shape[1], len(tokens), words.shape[1], dtype=words.dtype, device=words.device
    )
    terms[0] = F.embedding(tokens, words)
    rows = F.embedding(row_ids.permute(1, 0).contiguous(), table)  # [tables, T, width]
    torch.bmm(rows, projections, out=terms[1:])
    return terms.mean(dim=0)


def route(logits: Tensor, bias: Tensor, *, top_k: int, routed_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, ids, and weights of identity experts; identity slots go to expert 0 with weight 0."""
    scores = logits.softmax(dim=-1)
    candidates = scores.view(-1, logits.shape[-1]) + bias.unsqueeze(0)
    ids = torch.topk(candidates, k=top_k, dim=-1, sorted=False)[1]
    weights = scores.gather(1, ids)
    identity_weights = weights.clone()
    identity_weights.masked_fill_(ids < routed_experts, 0.0)
    is_identity = ids >= routed_experts
    ids.masked_fill_(is_identity, 0)
    weights.masked_fill_(is_identity, 0.0)
    return weights, ids, identity_weights


def combine(routed: Tensor, tokens: Tensor, identity_weights: Tensor, *, routed_scale: float) -> Tensor:
    """Write the identity part to a matrix of zeros, scale the routed part in place, and add the two in place.

    `identity_weights` is [T, k].
    """
    identity = torch.zeros_like(tokens)
    torch.mul(tokens, identity_weights.sum(dim=-1, keepdim=True), out=identity)
    routed *= routed_scale
    routed += identity
    return routed
