"""N-gram ids against hand-computed ones and against the formula in plain Python integers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from serval_sglang.checkpoint import tiny_config
from serval_sglang.config import LongcatConfig
from serval_sglang.reference import ngram_ids

EOS = 2


def ids_of(tokens: list[int], config: LongcatConfig) -> list[list[int]]:
    ids: list[list[int]] = ngram_ids(torch.tensor([tokens]), config)[0].tolist()
    return ids


def ids_by_formula(tokens: list[int], config: LongcatConfig) -> list[list[int]]:
    """Compute ids by the formula for each document, which ends with its end-of-sequence token."""
    rows = []
    document: list[int] = []
    for token in tokens:
        document.append(token)
        row = []
        for order in range(2, config.emb_neighbor_num + 1):
            for split in range(config.emb_split_num):
                modulus = config.ngram_base + 2 * ((order - 2) * config.emb_split_num + split) + 1
                newest_first = document[::-1][:order]
                row.append(sum(x * config.vocab_size**d for d, x in enumerate(newest_first)) % modulus)
        rows.append(row)
        if token == config.eos_token_id:
            document = []
    return rows


def small_config(vocab_size: int, ratio: int, neighbors: int, splits: int) -> LongcatConfig:
    return tiny_config(
        vocab_size=vocab_size,
        ngram_vocab_size_ratio=ratio,
        emb_neighbor_num=neighbors,
        emb_split_num=splits,
        hidden_size=(neighbors - 1) * splits * 4,
        eos_token_id=EOS,
    )


# V = 10 and m = 30, so that ids are decimal digits read as a number: bigrams mod 31, trigrams mod 33.
DECIMAL = small_config(10, 3, 3, 1)


def test_ngram_ids_equal_hand_computed_ones() -> None:
    # 57 = 31 + 26 = 33 + 24;  74 = 62 + 12;  574 = 17 * 33 + 13
    assert ids_of([5, 7, 4], DECIMAL) == [[5, 5], [26, 24], [12, 13]]


def test_ngram_ids_across_end_of_sequence() -> None:
    # At the eos itself the look-back still sees 5 (52 = 31 + 21 = 33 + 19). After it, nothing, then only 74.
    assert ids_of([5, EOS, 7, 4], DECIMAL) == [[5, 5], [21, 19], [7, 7], [12, 8]]


def test_ngram_ids_of_lite_need_64_bits() -> None:
    lite = small_config(131072, 78, 4, 4)
    rows = ids_of([131071] * 4, lite)
    # Σ (V-1)·V^d over d < n is V^n - 1.
    assert rows[3][0] == (131072**2 - 1) % 10_223_617 == 4_192_623
    assert rows[3][11] == (2**68 - 1) % 10_223_639
    assert all(0 <= x < 10_223_617 + 2 * i for row in rows for i, x in enumerate(row))


def test_ngram_ids_separate_rows_of_batch() -> None:
    config = tiny_config()
    batch = torch.tensor([[5, 6, 7, 8], [9, 10, EOS, 12]])
    together = ngram_ids(batch, config)
    assert torch.equal(together, torch.cat([ngram_ids(row[None], config) for row in batch]))


def test_ngram_ids_are_int64_with_one_column_per_table() -> None:
    ids = ngram_ids(torch.zeros(2, 5, dtype=torch.int32), tiny_config())
    assert ids.dtype == torch.int64
    assert ids.shape == (2, 5, 12)


@given(
    vocab_size=st.integers(3, 400),
    ratio=st.integers(1, 90),
    neighbors=st.integers(2, 6),
    splits=st.integers(1, 4),
    data=st.data(),
)
def test_ngram_ids_follow_formula(
    vocab_size: int, ratio: int, neighbors: int, splits: int, data: st.DataObject
) -> None:
    config = small_config(vocab_size, ratio, neighbors, splits)
    token = st.one_of(st.just(EOS), st.integers(0, vocab_size - 1))
    tokens = data.draw(st.lists(token, min_size=1, max_size=14))
    assert ids_of(tokens, config) == ids_by_formula(tokens, config)
