"""The engine's choice of tokens against the reference's."""

from dataclasses import replace

import pytest
import torch

from serval_sglang.known_configs import TINY_SPARSE
from serval_sglang.layers.chosen_tokens import chosen_tokens
from serval_sglang.reference.sparse import chosen_keys

assert TINY_SPARSE.sparse_attention is not None
SPARSE = TINY_SPARSE.sparse_attention


@pytest.mark.parametrize("queries", [1, 7, 60])
def test_chosen_tokens_are_those_of_the_reference_even_if_scores_are_equal(queries: int) -> None:
    generator = torch.Generator().manual_seed(queries)
    # Few different values, so that most are equal to others.
    scores = torch.randint(-3, 4, (1, 60, 60), generator=generator).float()
    visible = torch.ones(1, 60, 60, dtype=torch.bool).tril()
    sparse = replace(SPARSE, index_topk=25)
    expected = chosen_keys(scores, visible, sparse)[0, 60 - queries :]
    chosen = chosen_tokens(scores[0, 60 - queries :], sparse)
    assert chosen is not None
    assert torch.equal(chosen, expected)
    assert chosen.sum(-1).tolist() == [min(25, query + 1) for query in range(60 - queries, 60)]


def test_chosen_tokens_are_all_of_a_short_sequence() -> None:
    assert chosen_tokens(torch.zeros(3, SPARSE.index_topk), SPARSE) is None
