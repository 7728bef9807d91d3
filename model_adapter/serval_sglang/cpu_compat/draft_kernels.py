"""SGLang's operations on chains of draft tokens, in torch, for the stand-in package `sgl_kernel`.

Signatures are those of the sglang-kernel wheel. All outputs are arguments that are filled. B is the number of
requests, W the number of tokens that each verifies: the last sampled token and its drafts, in order.
"""

import torch
from torch import Tensor

# sglang.kernels.ops.speculative.spec_tree.TreeMaskMode.QLEN_ONLY
_MASK_OF_NEW_TOKENS = 1


def assign_draft_cache_locs_contiguous_cpu(  # noqa: PLR0917 - called by position
    slots: Tensor, req_to_token: Tensor, seq_lens: Tensor, out: Tensor, row_size: int, topk: int, steps: int
) -> None:
    """Fill `out` [B * topk * steps] with the cache places of the tokens behind `seq_lens` [B]."""
    places = seq_lens.long()[:, None] + torch.arange(topk * steps)
    out.copy_(req_to_token[slots.long()[:, None], places].flatten())


def assign_extend_cache_locs_cpu(  # noqa: PLR0917 - called by position
    slots: Tensor, req_to_token: Tensor, starts: Tensor, ends: Tensor, out: Tensor, row_size: int
) -> None:
    """Fill the beginning of `out` with the cache places of tokens `starts` to `ends` [B] of each request."""
    filled = 0
    for slot, start, end in zip(slots.tolist(), starts.tolist(), ends.tolist(), strict=True):
        out[filled : filled + end - start] = req_to_token[slot, start:end]
        filled += end - start


def assign_req_to_token_pool_cpu(  # noqa: PLR0917 - called by position
    slots: Tensor, req_to_token: Tensor, starts: Tensor, ends: Tensor, places: Tensor, row_size: int
) -> None:
    """Write the cache `places` of tokens `starts` to `ends` [B] into the requests' rows of `req_to_token`."""
    taken = 0
    for slot, start, end in zip(slots.tolist(), starts.tolist(), ends.tolist(), strict=True):
        req_to_token[slot, start:end] = places[taken : taken + end - start].to(req_to_token.dtype)
        taken += end - start


def build_tree_kernel_efficient_cpu(  # noqa: PLR0917 - called by position
    parents: Tensor,
    score_indices: Tensor,
    seq_lens: Tensor,
    mask: Tensor,
    positions: Tensor,
    index: Tensor,
    next_token: Tensor,
    next_sibling: Tensor,
    topk: int,
    steps: int,
    width: int,
    mask_mode: int,
) -> None:
    """Describe B chains as trees.

    Fills `mask` (bool [B * W * W], True where a token attends to another), `positions` [B * W], and [B, W]
    each: `index` (row in the batch), `next_token` and `next_sibling` (-1 for none).

    Raises `NotImplementedError` for trees that branch.
    """
    if topk != 1 or mask_mode != _MASK_OF_NEW_TOKENS:
        raise NotImplementedError(f"a CPU verifies chains of drafts only, got {topk=}, {mask_mode=}.")
    requests = len(seq_lens)
    place = torch.arange(width)
    positions.copy_((seq_lens.long()[:, None] + place).flatten())
    index.copy_(torch.arange(requests * width).view(requests, width))
    next_token.copy_(torch.where(place < width - 1, place + 1, -1).expand(requests, width))
    next_sibling.fill_(-1)
    mask.copy_((place[:, None] >= place).expand(requests, width, width).flatten())


def verify_tree_greedy_cpu(
    *,
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    target_predict: Tensor,
) -> None:
    """Accept each request's longest run of drafts that are `target_predict` [B, W] of the token before them.

    Fills `predicts` [B * W], the target's token after each token; `accept_index` [B, W], rows of the last
    sampled token and the accepted drafts, then -1; `accept_token_num` [B], the number of accepted drafts.
    """
    accept_run(candidates[:, 1:] == target_predict[:, :-1], accept_index, accept_token_num)
    predicts.copy_(target_predict.flatten())


def accept_run(is_right: Tensor, accept_index: Tensor, accept_token_num: Tensor) -> None:
    """Accept drafts up to the first wrong one; `is_right` [B, W - 1]. The rest is as for
    `verify_tree_greedy_cpu`."""
    requests, drafts = is_right.shape
    accepted = is_right.long().cumprod(dim=1).sum(dim=1)
    place = torch.arange(drafts + 1)
    rows = torch.arange(requests)[:, None] * (drafts + 1) + place
    accept_index.copy_(torch.where(place <= accepted[:, None], rows, -1))
    accept_token_num.copy_(accepted)


def fill_bonus_tokens_cpu(
    accept_tokens: Tensor, accept_lens: Tensor, bonus_tokens: Tensor, width: int
) -> None:
    """Fill `bonus_tokens` [B] with the last of each request's `accept_lens` [B] tokens in `accept_tokens`
    [B * W]."""
    last = torch.arange(len(accept_lens)) * width + accept_lens.long() - 1
    bonus_tokens.copy_(accept_tokens.flatten()[last])


CHAIN_KERNELS = (
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    build_tree_kernel_efficient_cpu,
    fill_bonus_tokens_cpu,
    verify_tree_greedy_cpu,
)
