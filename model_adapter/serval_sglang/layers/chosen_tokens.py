"""The choice of sparse attention, and where an indexer leaves it for the attentions of its layer."""

import torch
from torch import Tensor

from serval_sglang.config import SparseAttention

# Attribute of the attention backend, set before the attentions of a layer that choose tokens: what
# `chosen_tokens` returns, for each sequence of the batch.
CHOSEN_TOKENS = "serval_chosen_tokens"


def chosen_tokens(scores: Tensor, sparse: SparseAttention) -> Tensor | None:
    """Return bool [queries, tokens], True where a query attends to a token of its sequence.

    `scores` is [queries, tokens]; the queries are the last tokens. None if they attend to all up to
    themselves.
    """
    queries, tokens = scores.shape
    if tokens <= sparse.index_topk:
        return None
    token = torch.arange(tokens)
    query = torch.arange(tokens - queries, tokens)[:, None]
    always = (token < sparse.index_init_tokens) | (token > query - sparse.index_local_tokens)
    later = token > query
    ranked = scores.masked_fill(always, torch.inf).masked_fill(later, -torch.inf)
    best = ranked.sort(dim=-1, descending=True, stable=True).indices[:, : sparse.index_topk]
    return torch.zeros_like(later).scatter_(1, best, True) & ~later
