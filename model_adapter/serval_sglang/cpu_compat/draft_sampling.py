"""Accepting drafts at a temperature above 0 on a CPU, where SGLang would take the most likely tokens."""

import torch
from torch import Tensor

from serval_sglang.cpu_compat.draft_kernels import accept_run


def sample_chains(
    *,
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    uniform_samples: Tensor,
    uniform_samples_for_final_sampling: Tensor,
    target_probs: Tensor,
    **_: object,
) -> None:
    """Replace tree_speculative_sampling_target_only, which only GPUs have, for B chains of W tokens.

    A draft d is accepted with the probability p(d) that the target gives it; after the first that is not, one
    token is drawn from p without d, and after all of them one from p. Each token is thus distributed as p.

    Args:
        candidates: [B, W], the last sampled token and its drafts.
        uniform_samples: float32 [B, W] in [0, 1); `uniform_samples_for_final_sampling` [B].
        target_probs: float32 [B, W, V], the distribution of the token after each token.
        predicts, accept_index, accept_token_num: filled as by `draft_kernels.verify_tree_greedy_cpu`, except
            that places after the last accepted draft's are left as they are.
    """
    requests, width = candidates.shape
    rows = torch.arange(requests)
    drafts = candidates[:, 1:].long()
    chance = target_probs[:, :-1].gather(2, drafts[:, :, None]).squeeze(2)
    accept_run(uniform_samples[:, : width - 1] < chance, accept_index, accept_token_num)
    last = accept_token_num.long()
    left = target_probs[rows, last].double()
    was_rejected = last < width - 1
    left[rows[was_rejected], drafts[rows[was_rejected], last[was_rejected]]] = 0.0
    drawn = predicts.view(requests, width)
    drawn[:, :-1] = torch.where(torch.arange(width - 1) < last[:, None], drafts, drawn[:, :-1])
    drawn[rows, last] = _draw(left, uniform_samples_for_final_sampling.double()).to(drawn.dtype)


def _draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw one index from each row of `weights` [B, V], which need not sum to 1, by `uniform` [B]."""
    sums = weights.cumsum(dim=1)
    # The first sum above the threshold belongs to a positive weight; a threshold below the total has one.
    return torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True).squeeze(1)


def verify_uses_greedy(*, is_all_greedy: bool, **_: object) -> bool:
    """Replace _verify_uses_greedy, which is True for every batch on a CPU."""
    return is_all_greedy
