"""The hash against its definition in Python integers, token by token."""

import random

import pytest
import torch

from serval_kernels.ngram_ids import ngram_hash, ngram_ids

LITE = {"vocab_size": 131072, "base": 78 * 131072, "max_order": 4, "splits": 4}
TINY = {"vocab_size": 307, "base": 921, "max_order": 4, "splits": 4}
EOS = 2


def scalar_ids(window: list[int], *, vocab_size: int, base: int, max_order: int, splits: int) -> list[int]:
    ids = []
    for order in range(2, max_order + 1):
        for split in range(splits):
            modulus = base + 2 * ((order - 2) * splits + split) + 1
            total = window[0]
            for distance in range(1, order):
                if window[distance] == EOS:
                    break
                total += window[distance] * vocab_size**distance
            ids.append(total % modulus)
    return ids


@pytest.mark.parametrize(
    "sizes", [LITE, TINY, {**TINY, "max_order": 2, "splits": 1}], ids=["lite", "tiny", "bigram"]
)
def test_ngram_ids_follow_definition(sizes: dict[str, int]) -> None:
    generator = random.Random(0)
    # Small ids are frequent, so that end-of-sequence tokens occur at every place of the window.
    vocab_size, order = sizes["vocab_size"], sizes["max_order"]
    tokens = [
        generator.choice([EOS, 0, 1, vocab_size - 1, generator.randrange(vocab_size)]) for _ in range(2000)
    ]
    windows = [tokens[i : i + order] for i in range(0, len(tokens), order)]
    constants = ngram_hash(**sizes)
    ids = ngram_ids(torch.tensor(windows), constants, eos_token_id=EOS) - constants.offsets
    assert ids.tolist() == [scalar_ids(window, **sizes) for window in windows]


def test_ngram_hash_stacks_tables_without_gap_or_overlap() -> None:
    constants = ngram_hash(**LITE)
    ends = constants.offsets + constants.moduli
    assert constants.offsets[0] == 0
    assert torch.equal(constants.offsets[1:], ends[:-1])
    assert ends[-1] == 122_683_536  # rows of LongCat-Flash-Lite's twelve tables together
