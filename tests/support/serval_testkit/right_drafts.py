"""A tiny checkpoint whose MTP layer is right often but not always, so that runs of all lengths are accepted.

The next token mostly follows from the last one, by a permutation that the output head holds; n-grams, layers
and routers decide the rest. The MTP layer knows the permutation alone, and sees the tokens by an embedding
that is turned against the model's: with the model's own it would draft nonsense.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.config import LongcatConfig

# Size of a word row's values, beside 6 of an n-gram row's. With 40 every draft is right, with 10 few are.
_WORD_SCALE = 14.0
_HEAD_SCALE = 2.0
# So that the layer's attention decides some drafts.
_ATTENTION_SCALE = 2.5


def write_checkpoint_with_right_drafts(directory: Path, *, seed: int) -> LongcatConfig:
    """Write the checkpoint in float32; return its config."""
    config = write_tiny_checkpoint(directory, seed=seed, dtype=torch.float32, mtp=True)
    (file,) = directory.glob("*.safetensors")
    weights = load_file(file)
    generator = torch.Generator().manual_seed(seed + 1)
    tokens, hidden = config.vocab_size, config.hidden_size
    rows = torch.randn(tokens, hidden, generator=generator)
    rows *= math.sqrt(hidden) / rows.norm(dim=1, keepdim=True)
    following = torch.randperm(tokens, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator))
    noise = torch.randn(hidden, hidden, generator=generator) / math.sqrt(hidden)
    weights["model.embed_tokens.weight"] = rows * _WORD_SCALE
    head = torch.empty(tokens, hidden)
    head[following] = rows * (_HEAD_SCALE / math.sqrt(hidden))
    weights["lm_head.weight"] = head
    weights["model.mtp.embed_tokens.weight"] = rows @ turn.T
    weights["model.mtp.layers.0.eh_proj.weight"] = torch.cat((turn.T, 0.5 * noise), dim=1)
    weights["model.mtp.layers.0.self_attn.o_proj.weight"] *= _ATTENTION_SCALE
    save_file(weights, file)
    return config
