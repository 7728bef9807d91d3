"""The multi-token-prediction (MTP) layer, which drafts the token after the next.

With x_t the tokens, h_t the model's hidden state at position t after its final norm, and E the layer's own
word embedding, which has no n-gram rows::

    u_t = eh_proj [enorm(E[x_{t+1}]); hnorm(h_t)]
    a_t = u_t + MLA(input_layernorm(u))_t                        causal, rope at position t
    g_t = norm(a_t + SwiGLU(post_attention_layernorm(a_t)))
    logits of x_{t+2} = lm_head g_t                              with the model's head

One layer serves every depth: a draft behind a draft takes g of the position before in place of h, and the
embedding of the token that has just been drafted. Modules are named as in Meituan's checkpoints below
`model.mtp.`. Sources: the released tensors; LongCat-Flash technical report (arXiv:2509.01322), section 2.3;
DeepSeek-V3 (arXiv:2412.19437), section 2.2; vLLM's longcat_flash_mtp.py for the order of the concatenation.
"""

import torch
from torch import Tensor, nn

from serval_sglang.config import LongcatConfig
from serval_sglang.reference.attention import LatentAttention
from serval_sglang.reference.layers import Linear, RMSNorm, SwiGLU
from serval_sglang.reference.rope import rotation


class MtpLayer(nn.Module):
    """The layer; `state_dict()` has the names of checkpoints without their prefix `model.mtp.`."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Block(config)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, next_tokens: Tensor, hidden: Tensor) -> Tensor:
        """Map x_{t+1} and h_t to g_t, which the model's head turns into logits of x_{t+2}.

        `next_tokens` is int64 [B, T] and `hidden` [B, T, H], for positions 0 to T - 1. The result is
        [B, T, H] in the dtype of `hidden`.
        """
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        rope = rotation(positions, self.config, dtype=torch.promote_types(hidden.dtype, torch.float32))
        embedded = self.embed_tokens(next_tokens).to(hidden.dtype)
        g: Tensor = self.norm(self.layers[0](embedded, hidden, rope))
        return g


class _Block(nn.Module):
    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        # The norms of the two inputs are called `enorm.m` and `hnorm.m` in checkpoints.
        self.enorm = nn.ModuleDict({"m": RMSNorm(size, eps)})
        self.hnorm = nn.ModuleDict({"m": RMSNorm(size, eps)})
        self.eh_proj = Linear(2 * size, size)
        self.input_layernorm = RMSNorm(size, eps)
        self.self_attn = LatentAttention(config)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.transformer_layer = nn.ModuleDict({"mlp": SwiGLU(size, config.ffn_hidden_size)})

    def forward(self, embedded: Tensor, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        u = self.eh_proj(torch.cat((self.enorm["m"](embedded), self.hnorm["m"](hidden)), dim=-1))
        a = u + self.self_attn(self.input_layernorm(u), rope, None)
        m: Tensor = a + self.transformer_layer["mlp"](self.post_attention_layernorm(a))
        return m
