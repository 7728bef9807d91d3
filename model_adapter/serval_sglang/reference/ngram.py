"""The n-gram embedding: ids by a polynomial hash of the latest tokens, and the mean of word and n-gram rows.

Source: Meituan's modeling_longcat_ngram.py, class NgramEmbedding. For order n = 2..N and split k = 0..K-1,
i = (n-2)·K + k and M_i = m + 2i + 1::

    id_i(t) = ( x_t + Σ_{d=1}^{n-1} x_{t-d} · (V^d mod M_i) ) mod M_i
    x(t)    = ( E[x_t] + Σ_i P_i · T_i[id_i(t)] ) / (1 + number of tables)

where x_{t-d} counts as 0 before the sequence, and if any of x_{t-1}..x_{t-d} is an end-of-sequence token: the
look-back ends at such a token and excludes it. The current token may be one without effect. With
`full_word_embedding` only the sum is divided, and E[x_t] is added as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serval_sglang.config import LongcatConfig
from serval_sglang.reference.layers import Linear


def ngram_ids(input_ids: Tensor, config: LongcatConfig) -> Tensor:
    """Return the row of each n-gram table for each position: int64 [B, T, tables], column i in [0, M_i).

    Each row of `input_ids` int64 [B, T] is a sequence from its first token on. `config` gives V, m, N, K and
    the end-of-sequence token.
    """
    return window_ids(look_back(input_ids.long(), config), config)


def window_ids(window: Tensor, config: LongcatConfig) -> Tensor:
    """Return the rows for windows as `look_back` makes them: int64 [B, T, N] to [B, T, tables]."""
    # V^d mod M_i < 2^24 and x < 2^17 for Lite: the products need 64 bits, and pow() must be Python's.
    tables = [config.ngram_table_rows(i) for i in range(config.ngram_table_count)]
    moduli = torch.tensor(tables, dtype=torch.int64, device=window.device)  # [tables]
    powers = torch.zeros(len(tables), config.emb_neighbor_num, dtype=torch.int64)  # [tables, N]
    for i, modulus in enumerate(tables):
        order = 2 + i // config.emb_split_num
        powers[i, :order] = torch.tensor([pow(config.vocab_size, d, modulus) for d in range(order)])
    return (window[:, :, None, :] * powers.to(window.device)).sum(-1) % moduli


def look_back(input_ids: Tensor, config: LongcatConfig) -> Tensor:
    """Map [B, T] to [B, T, N]: the current token, then the N-1 before it, 0 beyond the end of look-back."""
    window = [input_ids]
    inside = torch.ones_like(input_ids, dtype=torch.bool)
    for distance in range(1, config.emb_neighbor_num):
        earlier = F.pad(input_ids, (distance, 0))[:, : input_ids.shape[1]]
        inside = inside & (earlier != config.eos_token_id)
        window.append(torch.where(inside, earlier, 0))
    return torch.stack(window, dim=-1)


class NgramEmbeddings(nn.Module):
    """The tables T_i (`embedders`) and projections P_i (`post_projs`); the word embedding E is given."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.config = config
        width = config.ngram_table_width
        tables = [nn.Embedding(config.ngram_table_rows(i), width) for i in range(config.ngram_table_count)]
        for table in tables:
            # Small beside the word rows, so that an n-gram not seen in training adds next to nothing.
            nn.init.normal_(table.weight, std=config.initializer_range)
        self.embedders = nn.ModuleList(tables)
        self.post_projs = nn.ModuleList(
            Linear(width, config.hidden_size) for _ in range(config.ngram_table_count)
        )

    def forward(self, input_ids: Tensor, word_rows: Tensor) -> Tensor:
        """Map `input_ids` [B, T] and their word embeddings [B, T, H] to the model's input [B, T, H]."""
        ids = ngram_ids(input_ids, self.config)
        adds_word = self.config.full_word_embedding
        total = torch.zeros_like(word_rows) if adds_word else word_rows
        for i, (table, project) in enumerate(zip(self.embedders, self.post_projs, strict=True)):
            total = total + project(table(ids[..., i]).to(word_rows.dtype))
        mean = total / (1 + self.config.ngram_table_count)
        return word_rows + mean if adds_word else mean
