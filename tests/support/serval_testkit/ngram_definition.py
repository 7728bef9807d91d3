"""The n-gram row ids by their definition: Python integers and whole token lists, no windows and no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class NgramSizes:
    """V, m, N and K of the hash."""

    vocab_size: int
    base: int
    max_order: int
    splits: int

    @property
    def tables(self) -> int:
        return (self.max_order - 1) * self.splits


# A vocabulary that is no power of two, so that V^d mod M differs from a shift; and Lite's sizes.
TINY_NGRAM = NgramSizes(vocab_size=307, base=921, max_order=4, splits=4)
LITE_NGRAM = NgramSizes(vocab_size=131072, base=78 * 131072, max_order=4, splits=4)


def row_ids_at(sequence: Sequence[int], place: int, sizes: NgramSizes, *, eos_token_id: int) -> list[int]:
    """Return the rows of the stacked tables for the token at ``place`` of a sequence."""
    rows = []
    first_row = 0
    for order in range(2, sizes.max_order + 1):
        for split in range(sizes.splits):
            modulus = sizes.base + 2 * ((order - 2) * sizes.splits + split) + 1
            total = sequence[place]
            for distance in range(1, order):
                if place < distance or sequence[place - distance] == eos_token_id:
                    break
                total += sequence[place - distance] * sizes.vocab_size**distance
            rows.append(first_row + total % modulus)
            first_row += modulus
    return rows


def history_at(sequence: Sequence[int], sizes: NgramSizes) -> list[int]:
    """Return the last n - 1 tokens, oldest first, 0 before the sequence."""
    look_back = sizes.max_order - 1
    return ([0] * look_back + list(sequence))[-look_back:]
