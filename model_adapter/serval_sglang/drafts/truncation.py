"""The tokens that top-k, top-p and min-p leave, as logits."""

import torch
from torch import Tensor


def truncate(
    logits: Tensor, *, temperatures: Tensor, top_ks: Tensor, top_ps: Tensor, min_ps: Tensor
) -> Tensor:
    """Return `logits` [N, V] with -inf for each token that must not be drawn; parameters are [N] or [N, 1].

    The rule is that of sglang.srt.layers.sampler.top_k_top_p_min_p_sampling_from_probs_torch: all three look
    at the whole distribution at the given temperature. Of tokens with equal logits the first come first, as
    for the argmax.
    """
    probabilities = torch.softmax(logits / temperatures.view(-1, 1), dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    more_likely = ordered.cumsum(dim=-1) - ordered
    is_left = (rank < top_ks.view(-1, 1)) & (more_likely <= top_ps.view(-1, 1))
    is_left &= ordered >= ordered[:, :1] * min_ps.view(-1, 1)
    return logits.masked_fill(~torch.zeros_like(is_left).scatter(1, order, is_left), -torch.inf)
