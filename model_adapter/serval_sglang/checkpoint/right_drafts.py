"""Weights whose MTP layer is right often but not always, so that runs of all lengths are accepted.

The next token mostly follows from the last one, by a permutation that the output head holds; n-grams, layers
and routers decide the rest. The MTP layer knows the permutation alone, and sees the tokens by an embedding
that is turned against the model's: with the model's own it would draft nonsense.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from serval_sglang.config import LongcatConfig

# Size of a word row's values at a width of 96, beside 6 of an n-gram row's: at 40 every draft is right, at
# 10 few are. Tokens of wider rows are told apart more easily: the exponent was measured at widths 96 and 384.
_WORD_SCALE, _WIDTH, _EXPONENT = 14.0, 96, 0.75
# So that logits are about as large at each width, as bfloat16 rounds large ones more.
_HEAD_SCALE = 2.0
# So that the layer's attention decides some drafts.
_ATTENTION_SCALE = 2.5
_ATTENTION_OUTPUT = "model.mtp.layers.0.self_attn.o_proj.weight"


def with_right_drafts(
    weights: Mapping[str, Tensor], config: LongcatConfig, *, seed: int
) -> dict[str, Tensor]:
    """Return random `weights`, an MTP layer among them, with embeddings, head and projection replaced."""
    generator = torch.Generator().manual_seed(seed + 1)
    tokens, hidden = config.vocab_size, config.hidden_size
    rows = torch.randn(tokens, hidden, generator=generator)
    rows *= math.sqrt(hidden) / rows.norm(dim=1, keepdim=True)
    following = torch.randperm(tokens, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator))
    noise = torch.randn(hidden, hidden, generator=generator) / math.sqrt(hidden)
    head = torch.empty(tokens, hidden)
    head[following] = rows * (_HEAD_SCALE * math.sqrt(_WIDTH) / hidden)
    return {
        **weights,
        "model.embed_tokens.weight": rows * (_WORD_SCALE * (_WIDTH / hidden) ** _EXPONENT),
        "lm_head.weight": head,
        "model.mtp.embed_tokens.weight": rows @ turn.T,
        "model.mtp.layers.0.eh_proj.weight": torch.cat((turn.T, 0.5 * noise), dim=1),
        _ATTENTION_OUTPUT: weights[_ATTENTION_OUTPUT] * _ATTENTION_SCALE,
    }
