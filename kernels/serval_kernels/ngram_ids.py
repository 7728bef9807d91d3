"""Row ids of the n-gram tables: a polynomial hash of the most recent tokens.

For order n = 2..N and split k = 0..K-1 let i = (n-2)·K + k and M_i = m + 2i + 1. Then::

    id_i(t) = ( x_t + Σ_{d=1}^{n-1} x_{t-d} · (V^d mod M_i) ) mod M_i

where x_{t-d} counts as 0 if any of x_{t-1}..x_{t-d} is an end-of-sequence token; the current token may be one
without effect. Source: Meituan's modeling_longcat_ngram.py, class NgramEmbedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class NgramHash(NamedTuple):
    """Constants of the hash for all tables, which are stacked in one matrix."""

    powers: Tensor  # int64 [tables, N]: V^d mod M_i for d < the order of table i, else 0
    moduli: Tensor  # int64 [tables]: M_i, which is also the number of rows of table i
    offsets: Tensor  # int64 [tables]: first row of table i in the stacked matrix


def ngram_hash(*, vocab_size: int, base: int, max_order: int, splits: int) -> NgramHash:
    """Return the constants for V = `vocab_size`, m = `base`, N = `max_order`, K = `splits`."""
    tables = (max_order - 1) * splits
    moduli = [base + 2 * table + 1 for table in range(tables)]
    powers = [
        [pow(vocab_size, d, modulus) if d < 2 + table // splits else 0 for d in range(max_order)]
        for table, modulus in enumerate(moduli)
    ]
    rows = torch.tensor(moduli, dtype=torch.int64)
    return NgramHash(torch.tensor(powers, dtype=torch.int64), rows, rows.cumsum(0) - rows)


def ngram_ids(windows: Tensor, ngram: NgramHash, *, eos_token_id: int) -> Tensor:
    """Return the row of the stacked tables for each token and table: int64 [T, tables].

    `windows` int64 [T, N] holds each token followed by those before it, nearest first, 0 before the sequence.
    `ngram` is on its device; `eos_token_id` ends the look-back. Column i lies in [offset_i, offset_i + M_i).
    """
    earlier = windows[:, 1:]
    inside = (earlier != eos_token_id).long().cumprod(dim=1)  # 1 up to the nearest end of sequence
    visible = torch.cat((windows[:, :1], earlier * inside), dim=1)
    # 64 bits: tokens reach 2^17 and powers 2^24 in LongCat-Flash-Lite.
    sums = (visible[:, None, :] * ngram.powers).sum(-1)
    return sums % ngram.moduli + ngram.offsets
