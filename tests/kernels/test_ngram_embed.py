"""The embedding against the mean of its terms, whole and in column shards."""

from collections.abc import Callable

import pytest
import torch

from serval_kernels.ngram_embed import ngram_embed, ngram_embed_reference

TABLES, ROWS, WIDTH, HIDDEN = 6, 31, 10, 60


def inputs(dtype: torch.dtype, tokens: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randint(TABLES * ROWS, (tokens, TABLES), generator=generator),
        torch.randn(TABLES * ROWS, WIDTH, generator=generator).to(dtype),
        torch.randn(TABLES, WIDTH, HIDDEN, generator=generator).to(dtype),
        torch.randn(tokens, HIDDEN, generator=generator).to(dtype),
    )


@pytest.mark.parametrize("tokens", [0, 1, 63])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_ngram_embed_is_mean_of_all_terms(dtype: torch.dtype, tolerance: float, tokens: int) -> None:
    ids, tables, projections, words = inputs(dtype, tokens)
    got = ngram_embed(ids, tables, projections.flatten(0, 1), words)
    terms = torch.stack(
        [words.double()] + [tables[ids[:, i]].double() @ projections[i].double() for i in range(TABLES)]
    )
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), terms.mean(0), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("compute", [ngram_embed, ngram_embed_reference])
def test_ngram_embed_in_place_writes_to_word_rows(compute: Callable[..., torch.Tensor]) -> None:
    ids, tables, projections, words = inputs(torch.float32, 9)
    apart = compute(ids, tables, projections.flatten(0, 1), words)
    assert apart.data_ptr() != words.data_ptr()
    together = compute(ids, tables, projections.flatten(0, 1), words, in_place=True)
    assert together.data_ptr() == words.data_ptr()
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("shards", [2, 5])
def test_ngram_embed_shards_add_up(shards: int) -> None:
    ids, tables, projections, words = inputs(torch.float32, 17)
    whole = ngram_embed(ids, tables, projections.flatten(0, 1), words)
    parts = [
        # Exactly one rank adds the word rows.
        ngram_embed(ids, table, projection.flatten(0, 1), words if rank == 0 else torch.zeros_like(words))
        for rank, (table, projection) in enumerate(
            zip(tables.chunk(shards, dim=1), projections.chunk(shards, dim=1), strict=True)
        )
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)


@pytest.mark.parametrize("compute", [ngram_embed, ngram_embed_reference])
def test_ngram_embed_scales_word_rows_alone(compute: Callable[..., torch.Tensor]) -> None:
    ids, tables, projections, words = inputs(torch.float32, 9)
    mean = compute(ids, tables, projections.flatten(0, 1), words)
    whole = compute(ids, tables, projections.flatten(0, 1), words, word_scale=1.0)
    torch.testing.assert_close(whole - mean, words * (1 - 1 / (1 + TABLES)))
