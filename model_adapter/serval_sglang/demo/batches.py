"""Batches of tokenised conversations and some noise, one per row, grouped by length to avoid padding."""

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from serval_sglang.demo.corpus import conversations
from serval_sglang.demo.rendering import render

_POOL_BATCHES = 16
_TYPICAL_LENGTH = 165
_NOISE_SHARE = 0.02
_NOISE_LENGTH = 200


class Row(NamedTuple):
    """One tokenised conversation; `spoken` is true for tokens that the assistant writes."""

    ids: list[int]
    spoken: list[bool]


class Batch(NamedTuple):
    """Rows padded on the right, where no real token can attend to the padding."""

    input_ids: Tensor  # int64 [B, T]
    targets: Tensor  # int64 [B, T], the next token
    spoken: Tensor  # bool [B, T], the assistant writes the target
    real: Tensor  # bool [B, T], not padding


def encode(tokenizer: Tokenizer, text: str) -> Row:
    """Tokenise a text. The assistant writes the tokens from after its marker to its end of turn."""
    speaks, ends = tokenizer.token_to_id("<longcat_assistant>"), tokenizer.token_to_id("</longcat_s>")
    ids: list[int] = tokenizer.encode(text).ids
    spoken, speaking = [], False
    for token in ids:
        spoken.append(speaking)
        speaking = (speaking or token == speaks) and token != ends
    return Row(ids, spoken)


def noise(tokenizer: Tokenizer, rng: Random) -> Row:
    """Return random token ids, on which the model should learn not to be confident."""
    length = rng.randint(2, _NOISE_LENGTH)
    return Row([rng.randrange(tokenizer.get_vocab_size()) for _ in range(length)], [False] * length)


def batches(tokenizer: Tokenizer, seed: int, *, batch_tokens: int) -> Iterator[Batch]:
    """Yield endless batches, determined by the seed, of at most `batch_tokens` tokens including padding."""
    stream, rng = conversations(seed), Random(seed)
    pool_size = max(1, _POOL_BATCHES * batch_tokens // _TYPICAL_LENGTH)
    while True:
        rows = [encode(tokenizer, render(item)) for item in islice(stream, pool_size)]
        rows += [noise(tokenizer, rng) for _ in range(int(_NOISE_SHARE * pool_size))]
        rows.sort(key=lambda row: len(row.ids))
        groups = list(_cut(rows, batch_tokens))
        rng.shuffle(groups)
        # A batch of noise alone has no assistant's turns to train on.
        yield from (batch_of(group) for group in groups if any(any(row.spoken) for row in group))


def _cut(rows: list[Row], batch_tokens: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        if group and (len(group) + 1) * len(row.ids) > batch_tokens:
            yield group
            group = []
        group.append(row)
    yield group


def batch_of(group: Sequence[Row]) -> Batch:
    """Return `group` as one batch, padded to its longest row."""
    length = max(len(ids) for ids, _ in group)
    tokens = torch.zeros(len(group), length, dtype=torch.int64)
    spoken, real = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool)
    for row, (ids, written) in enumerate(group):
        tokens[row, : len(ids)] = torch.tensor(ids)
        spoken[row, : len(ids)] = torch.tensor(written)
        real[row, : len(ids)] = True
    return Batch(tokens[:, :-1], tokens[:, 1:], spoken[:, 1:], real[:, 1:])
