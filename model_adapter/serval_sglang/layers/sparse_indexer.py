"""The indexer of LongCat Sparse Attention under SGLang on a CPU: it chooses the tokens to attend to.

SGLang has an indexer of its own, made for GPUs: it keeps keys in FP8 and needs their kernels. So SGLang is
shown a model without `index_topk` (`serval_sglang.plugin.sglang_config`), builds plain attention, and this
module chooses before it: both attentions of a layer read the choice from the attention backend
(`serval_sglang.cpu_compat.latent_attention`). `serval_sglang.reference.sparse` has the definition.

The state is one key for each place in the KV cache, so prefix hits, chunks, retraction and reuse of a place
need no special care. It is not part of SGLang's pool: what copies the pool elsewhere (HiCache,
disaggregation) would leave it behind, and is refused (`reason_against_sparse`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.rotary_embedding import get_rope_wrapper
from sglang.srt.model_executor.forward_context import get_attn_backend
from torch import Tensor, nn

from serval_sglang.config import LongcatConfig, SparseAttention
from serval_sglang.layers.chosen_tokens import CHOSEN_TOKENS, chosen_tokens

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

# SGLang's default for the norm of an indexer's keys.
KEY_NORM_EPS = 1e-6


class SparseIndexer(nn.Module):
    """The indexer of one layer, whole on every rank; its parameters have the names of checkpoints."""

    # Buffer: [places of the KV cache, index_head_dim], made when the first batch comes.
    keys: Tensor | None

    def __init__(self, config: LongcatConfig, sparse: SparseAttention, *, rope_scaling: Any) -> None:
        """Make an indexer without weights; `rope_scaling` is that of SGLang's attention."""
        super().__init__()
        self.sparse = sparse
        self.query_rank = config.q_lora_rank
        self.rotated = config.qk_rope_head_dim
        size, heads = sparse.index_head_dim, sparse.index_n_heads
        self.wq_b = nn.Linear(config.q_lora_rank, heads * size, bias=False)
        self.wk = nn.Linear(config.hidden_size, size, bias=False)
        self.k_norm = nn.RMSNorm(size, eps=KEY_NORM_EPS)
        self.weights_proj = nn.Linear(config.hidden_size, heads, bias=False)
        self.requires_grad_(False)
        self.rotary = get_rope_wrapper(
            self.rotated,
            rotary_dim=self.rotated,
            max_position=config.max_position_embeddings,
            base=config.rope_theta,
            rope_scaling=rope_scaling,
            is_neox_style=not sparse.indexer_rope_interleave,
            device="cpu",
        )
        self.register_buffer("keys", None, persistent=False)

    def choose(self, attention: Any, x: Tensor, positions: Tensor, forward_batch: ForwardBatch) -> None:
        """Store the keys of a batch, and set the choice for its queries on the attention backend.

        `attention` is the layer's first, `x` [T, H] its input, `positions` int64 [T].
        """
        backend = get_attn_backend()
        latents, _ = attention.fused_qkv_a_proj_with_mqa(x)
        query = self.wq_b(attention.q_a_layernorm(latents[:, : self.query_rank].contiguous()))
        query = query.view(len(x), self.sparse.index_n_heads, -1)
        key = self.k_norm(self.wk(x))[:, None]
        query[..., : self.rotated], key[..., : self.rotated] = self.rotary(
            positions, query[..., : self.rotated].contiguous(), key[..., : self.rotated].contiguous()
        )
        if self.keys is None:
            places = len(backend.token_to_kv_pool.get_key_buffer(attention.layer_id))
            self.keys = key.new_zeros(places, key.shape[-1])
        self.keys[forward_batch.out_cache_loc] = key[:, 0]
        weights = self.weights_proj(x).float()
        chosen: list[Tensor | None] = []
        for rows, tokens in _sequences(forward_batch, backend.req_to_token_pool.req_to_token):
            similarity = torch.einsum("qhd,sd->qhs", query[rows].float(), self.keys[tokens].float()).relu()
            chosen.append(chosen_tokens(torch.einsum("qhs,qh->qs", similarity, weights[rows]), self.sparse))
        setattr(backend, CHOSEN_TOKENS, chosen)


def reason_against_sparse(server_args: Any) -> str | None:
    """Return a sentence that says which flag sparse attention does not go with; None if there is none."""
    flags = {
        "--enable-dp-attention": server_args.enable_dp_attention,
        "--enable-hierarchical-cache": server_args.enable_hierarchical_cache,
        "--disaggregation-mode": server_args.disaggregation_mode != "null",
        "--speculative-algorithm": server_args.speculative_algorithm is not None,
    }
    given = [flag for flag, is_given in flags.items() if is_given]
    if not given:
        return None
    return f"{', '.join(given)}: not supported with sparse attention, whose indexer has a state of its own"


def _sequences(forward_batch: ForwardBatch, req_to_token: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of each request in the batch, and the places of all its tokens in the KV cache."""
    lengths = forward_batch.seq_lens.tolist()
    counts = [1] * len(lengths)
    if forward_batch.forward_mode.is_extend():
        counts = forward_batch.extend_seq_lens.tolist()
    start = 0
    for slot, length, count in zip(forward_batch.req_pool_indices.tolist(), lengths, counts, strict=True):
        yield slice(start, start + count), req_to_token[slot, :length]
        start += count
