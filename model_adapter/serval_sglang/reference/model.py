"""The whole model: n-gram embedding, shortcut-connected MoE layers, head.

Modules are named as in Meituan's checkpoints. Sources of the layer: transformers' modeling_longcat_flash.py,
class LongcatFlashDecoderLayer; LongCat-Flash technical report (arXiv:2509.01322), section 2.2.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from serval_sglang.config import LongcatConfig
from serval_sglang.reference.attention import LatentAttention
from serval_sglang.reference.layers import Linear, RMSNorm, SwiGLU
from serval_sglang.reference.moe import MixtureOfExperts, Routing
from serval_sglang.reference.ngram import NgramEmbeddings
from serval_sglang.reference.rope import rotation


class ReferenceOutput(NamedTuple):
    logits: Tensor  # [B, T, V]
    hidden_states: Tensor  # [B, T, H], after the final norm
    routing: tuple[Routing, ...]  # one per layer, leading dimensions [B, T]


class DecoderLayer(nn.Module):
    """Two attention + dense MLP blocks; the MoE reads the first MLP's input and is added after the second.

    h1 = x + A0(ln0 x);  y = pln0(h1);  s = MoE(y);  h2 = h1 + D0(y);  h3 = h2 + A1(ln1 h2);
    out = h3 + D1(pln1 h3) + s. With sparse attention, A0 and A1 attend to the keys that A0's indexer chooses.
    """

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = nn.ModuleList(RMSNorm(hidden, eps) for _ in range(2))
        self.post_attention_layernorm = nn.ModuleList(RMSNorm(hidden, eps) for _ in range(2))
        self.self_attn = nn.ModuleList(LatentAttention(config, has_indexer=i == 0) for i in range(2))
        self.mlps = nn.ModuleList(SwiGLU(hidden, config.ffn_hidden_size) for _ in range(2))
        self.mlp = MixtureOfExperts(config)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], visible: Tensor | None
    ) -> tuple[Tensor, Routing]:
        first = cast(LatentAttention, self.self_attn[0])
        attended = self.input_layernorm[0](x)
        visible = first.chosen(attended, rope, visible)
        h = x + first(attended, rope, visible)
        y = self.post_attention_layernorm[0](h)
        shortcut, routing = self.mlp(y)
        h = h + self.mlps[0](y)
        h = h + self.self_attn[1](self.input_layernorm[1](h), rope, visible)
        h = h + self.mlps[1](self.post_attention_layernorm[1](h)) + shortcut
        return h, routing


class Decoder(nn.Module):
    """Everything below the head; a separate module because checkpoint names start with `model.`."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.ngram_embeddings = NgramEmbeddings(config)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, input_ids: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Map `input_ids` [B, T] to [B, T, H] in `dtype`."""
        embedded: Tensor = self.ngram_embeddings(input_ids, self.embed_tokens(input_ids).to(dtype))
        return embedded

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, *, dtype: torch.dtype
    ) -> tuple[Tensor, tuple[Routing, ...]]:
        visible = None
        if attention_mask is not None:
            visible = _visible_keys(attention_mask.bool())
            # Token 0 adds nothing to a hash, so padding in the window reads as "before the sequence".
            input_ids = torch.where(attention_mask.bool(), input_ids, 0)
        h = self.embed(input_ids, dtype=dtype)
        # Attention depends only on distances, so padding on the left may shift all positions of a row.
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        # Angles grow with the position: below float32 they would be wrong by whole turns.
        rope = rotation(positions, self.config, dtype=torch.promote_types(dtype, torch.float32))
        routings = []
        for layer in self.layers:
            h, routing = layer(h, rope, visible)
            routings.append(routing)
        return self.norm(h), tuple(routings)


class ReferenceModel(nn.Module):
    """LongCat-Flash-Lite. `state_dict()` has exactly the names of Meituan's checkpoints, without MTP.

    All activations have `compute_dtype`, independent of the dtype of the weights. float64 shows how much of a
    difference is rounding.
    """

    def __init__(self, config: LongcatConfig, *, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def forward(self, input_ids: Tensor, *, attention_mask: Tensor | None = None) -> Tensor:
        """Return logits [B, T, V] in `compute_dtype`; arguments as for `run`."""
        return self.run(input_ids, attention_mask=attention_mask).logits

    def run(self, input_ids: Tensor, *, attention_mask: Tensor | None = None) -> ReferenceOutput:
        """Compute logits, hidden states and routing.

        `input_ids` is int64 [B, T], each in [0, vocab_size). `attention_mask` is bool or 0/1 [B, T], 1 for
        real tokens, which must be contiguous in each row, with padding on either side; None if every token is
        real. Outputs at padding are meaningless.
        """
        hidden_states, routing = self.model(input_ids, attention_mask, dtype=self.compute_dtype)
        return ReferenceOutput(self.lm_head(hidden_states), hidden_states, routing)


def _visible_keys(real: Tensor) -> Tensor:
    """Map bool `real` [B, T], False at padding, to bool [B, 1, T, T], True where a query (row) sees a key."""
    square = torch.ones(real.shape[1], real.shape[1], dtype=torch.bool, device=real.device)
    # A padding query sees itself, because a softmax over no keys would be NaN.
    return square.tril() & (real[:, None, None, :] | square.diag().diag())
