"""Queries for which sparse attention's last chosen token and the first one left out are practically equal."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from serval_sglang.config import SparseAttention
from serval_sglang.reference import ReferenceModel
from serval_sglang.reference.sparse import Indexer

# float32 changes an indexer's score by less than this, relative to the query's largest score.
INDEX_TIE = 2e-6


@contextmanager
def recorded_scores(reference: ReferenceModel) -> Iterator[list[Tensor]]:
    """Collect the scores [T, T] of every layer's indexer while `reference` computes one sequence; none if it
    has no sparse attention."""
    scores: list[Tensor] = []

    def record(_: Any, __: Any, output: Tensor) -> None:
        scores.append(output[0])

    with ExitStack() as hooks:
        for module in reference.modules():
            if isinstance(module, Indexer):
                hooks.callback(module.register_forward_hook(record).remove)
        yield scores


def index_ties(scores: Tensor, sparse: SparseAttention) -> Tensor:
    """Return bool [T], True for queries whose choice rounding may change; `scores` is [T, T].

    Two scores of exactly 0 are no tie: no head points to either token, and the earlier one is chosen.
    """
    count = len(scores)
    top_k = sparse.index_topk
    if count <= top_k:
        return torch.zeros(count, dtype=torch.bool)
    token = torch.arange(count)
    query = token[:, None]
    always = (token < sparse.index_init_tokens) | (token > query - sparse.index_local_tokens)
    seen = token <= query
    largest = scores.masked_fill(~seen, 0.0).abs().amax(dim=-1)
    ranked = scores.masked_fill(always, torch.inf).masked_fill(~seen, -torch.inf)
    last, first_left_out = ranked.topk(top_k + 1).values[:, top_k - 1 :].unbind(dim=-1)
    both_zero = (last == 0) & (first_left_out == 0)
    return (last - first_left_out < INDEX_TIE * largest) & (token >= top_k) & ~both_zero
