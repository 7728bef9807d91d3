"""A checkpoint whose text is known in advance, and whose MTP layer is right or wrong as a test wishes.

Every token has one successor, in a single cycle through the vocabulary, end of sequence included. The model
is a random one whose word embedding is loud and whose head answers each word with its successor, so n-grams,
attention and experts change log-probabilities but hardly ever the best token. The MTP layer does the same
from its own embedding, in which some tokens, the misleading ones, have the row of another word: a draft
behind such a token is wrong, all others are right.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.config import LongcatConfig
from serval_sglang.known_configs import TINY

# Multiples of what random weights have: of the word rows, and of the embedding's part of the MTP layer.
_LOUDNESS = 8.0
_COPIED = 4.0


def successors(config: LongcatConfig = TINY, *, seed: int = 0) -> list[int]:
    """Return the token that follows each token."""
    order = torch.randperm(config.vocab_size, generator=torch.Generator().manual_seed(seed)).tolist()
    follows = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [follows[token] for token in range(config.vocab_size)]


def continuation(last: int, length: int, *, config: LongcatConfig = TINY, seed: int = 0) -> list[int]:
    """Return the `length` tokens that follow a prompt which ends with token `last`."""
    follows, tokens = successors(config, seed=seed), [last]
    for _ in range(length):
        tokens.append(follows[tokens[-1]])
    return tokens[1:]


def token_before_end(distance: int, *, config: LongcatConfig = TINY, seed: int = 0) -> int:
    """Return the token whose `distance`-th successor is the end of sequence."""
    follows, token = successors(config, seed=seed), config.eos_token_id
    for _ in range(distance):
        token = follows.index(token)
    return token


def accepted_counts(text: Sequence[int], misleading: Collection[int], *, steps: int) -> list[int]:
    """Return the right drafts of each verify pass that `text`, the answer of the model, takes.

    Drafts behind its end count only where the text could go on, so give a text that was not cut.
    """
    counts, done = [], 1  # the prefill gives the first token
    while done < len(text):
        right = 0
        while right < steps and done + right < len(text) and text[done + right - 1] not in misleading:
            right += 1
        counts.append(right)
        done += right + 1
    return counts


def write_scripted_checkpoint(
    directory: Path,
    *,
    misleading: Collection[int],
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> LongcatConfig:
    """Write the tiny checkpoint with such weights, and a tokenizer; drafts behind `misleading` are wrong."""
    config = write_tiny_checkpoint(directory, seed=seed, dtype=dtype, mtp=True, **overrides)
    file = directory / "model.safetensors"
    weights = load_file(file)
    script = _scripted(weights, config, frozenset(misleading), seed)
    weights |= {name: tensor.to(weights[name].dtype).contiguous() for name, tensor in script.items()}
    save_file(weights, file, metadata={"format": "pt"})
    return config


def _scripted(
    weights: dict[str, Tensor], config: LongcatConfig, misleading: frozenset[int], seed: int
) -> dict[str, Tensor]:
    words = weights["model.embed_tokens.weight"].float()
    head = torch.empty_like(words)
    head[successors(config, seed=seed)] = words / words.norm(dim=1, keepdim=True)
    # A word that stands for another: any but itself.
    shown = [(token + 1) % config.vocab_size if token in misleading else token for token in range(len(words))]
    project = weights["model.mtp.layers.0.eh_proj.weight"].float()
    project[:, : config.hidden_size] += _COPIED * torch.eye(config.hidden_size)
    return {
        "model.embed_tokens.weight": _LOUDNESS * words,
        "lm_head.weight": head,
        "model.mtp.embed_tokens.weight": words[shown],
        "model.mtp.layers.0.eh_proj.weight": project,
    }
