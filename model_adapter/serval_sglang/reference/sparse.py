"""LongCat Sparse Attention (LSA): the indexer, which chooses the tokens that a query attends to.

With c_t the normalised query latent of the attention and x_t its input, the indexer has H query heads, one
key, and one weight for each head::

    q_t = rope(Wq c_t)        k_s = rope(norm(Wk x_s))        w_t = Ww x_t
    score(t, s) = Σ_h w_{t,h} · max(0, q_{t,h} · k_s)

Query t attends to the `index_topk` visible tokens with the largest scores, where the first
`index_init_tokens` tokens of the sequence and the last `index_local_tokens` up to t always count as largest.
A query that sees no more tokens than `index_topk` attends to all. The second attention of a layer attends to
the same tokens. Of equal scores the earlier token's counts as larger, which is a choice of this package:
others leave it open. Positive factors on all scores of a query, which implementations multiply in, change
nothing and are left out here, as are Hadamard rotations, which leave q · k as it is.

Sources: DeepSeek-V3.2 (arXiv:2512.02556), section 2.1, for the scores; LongCat Sparse Attention
(arXiv:2608.01662, of which only the abstract was available here) for tokens that are always chosen
("streaming-aware indexing") and for the shared choice ("cross-layer indexing"); SGLang 0.5.23's
dsa_indexer.py, mlx-lm's longcat2.py and mlx-vlm's longcat_flash_sparse for details. They agree but for what
model_adapter/SIBLINGS.md lists; here, as in SGLang, the norm of keys has an eps of 1e-6 and
`indexer_rope_interleave` is False where config.json omits it.
"""

import torch
from torch import Tensor, nn

from serval_sglang.config import LongcatConfig, SparseAttention
from serval_sglang.reference.layers import Linear, RMSNorm
from serval_sglang.reference.rope import rotate, rotate_halves

INDEX_NORM_EPS = 1e-6


class Indexer(nn.Module):
    """The indexer of one layer, `self_attn.0.indexer` in checkpoints."""

    def __init__(self, config: LongcatConfig, sparse: SparseAttention) -> None:
        super().__init__()
        self.sparse = sparse
        self.rotated = config.qk_rope_head_dim
        heads, size = sparse.index_n_heads, sparse.index_head_dim
        self.wq_b = Linear(config.q_lora_rank, heads * size)
        self.wk = Linear(config.hidden_size, size)
        self.k_norm = RMSNorm(size, INDEX_NORM_EPS)
        self.weights_proj = Linear(config.hidden_size, heads)

    def forward(self, x: Tensor, query_latent: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Return scores [B, T, T] of keys (columns) for queries (rows), later keys included.

        `x` [B, T, H] is the attention's input, `query_latent` [B, T, q_lora_rank] its normalised query
        latent, and `rope` cos and sin, each [T, rope_dim / 2].
        """
        query = self.wq_b(query_latent).unflatten(-1, (self.sparse.index_n_heads, -1))  # [B, T, heads, d]
        query = self._rotated(query.transpose(1, 2), rope)  # [B, heads, T, d]
        key = self._rotated(self.k_norm(self.wk(x)), rope)  # [B, T, d]
        similarity = (query @ key[:, None].mT).relu()  # [B, heads, T, T]
        weights = self.weights_proj(x).mT[..., None]  # [B, heads, T, 1]
        scores: Tensor = (similarity * weights).sum(dim=1)
        return scores

    def _rotated(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Rotate the first dimensions of `x`, as many as attention rotates of its keys."""
        turned, kept = x.tensor_split((self.rotated,), dim=-1)
        turn = rotate if self.sparse.indexer_rope_interleave else rotate_halves
        return torch.cat((turn(turned, *rope), kept), dim=-1)


def chosen_keys(scores: Tensor, visible: Tensor, sparse: SparseAttention) -> Tensor:
    """Return bool [B, T, T], True where a query (row) attends to a key (column).

    `scores` are those of `Indexer`. `visible` is bool [B, T, T], True where a query may see a key, itself
    included; the first visible key of a query counts as the first of its sequence.
    """
    ordinal = visible.cumsum(dim=-1)  # 1 for the first visible key of a query
    seen = ordinal[..., -1:]
    always = visible & ((ordinal <= sparse.index_init_tokens) | (ordinal > seen - sparse.index_local_tokens))
    ranked = scores.masked_fill(always, torch.inf).masked_fill(~visible, -torch.inf)
    # Equal scores are common, because a key that no head's query points to scores 0.
    best = ranked.argsort(dim=-1, descending=True, stable=True)[..., : sparse.index_topk]
    return torch.zeros_like(visible).scatter(-1, best, True) & visible
