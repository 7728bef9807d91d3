"""Multi-head latent attention with LongCat's scaling of the low-rank latents.

Sources: DeepSeek-V2 (arXiv:2405.04434) for MLA; transformers' modeling_longcat_flash.py, class
LongcatFlashMLA, for the scaling by sqrt(hidden / rank) and for the eps of the two latent norms, which is not
config.rms_norm_eps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serval_sglang.config import LongcatConfig
from serval_sglang.reference.layers import Linear, RMSNorm
from serval_sglang.reference.rope import rotate
from serval_sglang.reference.sparse import Indexer, chosen_keys

LATENT_NORM_EPS = 1e-6


class LatentAttention(nn.Module):
    """Causal MLA in its expanded form: keys and values are computed per head from the shared latent."""

    def __init__(self, config: LongcatConfig, *, has_indexer: bool = False) -> None:
        """Make an attention, with an indexer if it has one and `config` describes sparse attention."""
        super().__init__()
        self.config = config
        heads = config.num_attention_heads
        self.q_a_proj = Linear(config.hidden_size, config.q_lora_rank)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_NORM_EPS)
        self.q_b_proj = Linear(config.q_lora_rank, heads * config.qk_head_dim)
        self.kv_a_proj_with_mqa = Linear(config.hidden_size, config.kv_lora_rank + config.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, LATENT_NORM_EPS)
        self.kv_b_proj = Linear(config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.o_proj = Linear(heads * config.v_head_dim, config.hidden_size)
        sparse = config.sparse_attention if has_indexer else None
        self.indexer = None if sparse is None else Indexer(config, sparse)

    def chosen(self, x: Tensor, rope: tuple[Tensor, Tensor], visible: Tensor | None) -> Tensor | None:
        """Return the keys that the indexer leaves of `visible`, in its form; arguments as for `forward`."""
        if self.indexer is None:
            return visible
        if visible is None:
            visible = torch.ones(1, 1, x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        scores = self.indexer(x, self.q_a_layernorm(self.q_a_proj(x)), rope)
        visible = visible[:, 0].expand_as(scores)
        return chosen_keys(scores, visible, self.indexer.sparse)[:, None]

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], visible: Tensor | None) -> Tensor:
        """Map `x` [B, T, H] to [B, T, H].

        `rope` is cos and sin, each [T, rope_dim / 2]. `visible` is bool [B, 1, T, T], True where a query
        (row) may see a key (column); None means causal.
        """
        config = self.config
        nope, heads = config.qk_nope_head_dim, config.num_attention_heads

        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) * config.q_lora_scale
        q_nope, q_rope = _split_heads(q, heads).tensor_split((nope,), dim=-1)

        latent, k_rope = self.kv_a_proj_with_mqa(x).tensor_split((config.kv_lora_rank,), dim=-1)
        # Only the latent is scaled: the rotary key beside it is neither normalised nor scaled.
        kv = self.kv_b_proj(self.kv_a_layernorm(latent) * config.kv_lora_scale)
        k_nope, value = _split_heads(kv, heads).tensor_split((nope,), dim=-1)

        query = torch.cat((q_nope, rotate(q_rope, *rope)), dim=-1)  # [B, heads, T, qk_head_dim]
        shared_key = rotate(k_rope[:, None], *rope).expand(-1, heads, -1, -1)
        key = torch.cat((k_nope, shared_key), dim=-1)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, is_causal=visible is None, scale=config.softmax_scale
        )
        y: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return y


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """Map [B, T, heads * d] to [B, heads, T, d]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)
