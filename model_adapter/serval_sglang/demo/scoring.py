"""Scores of a model on finished conversations: share of assistant turns that greedy decoding writes exactly.

Greedy decoding writes a turn exactly if and only if the model's first choice is right at every token, given
the right tokens before it. So one forward pass over the finished conversation is enough, without decoding.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from serval_sglang.demo.batches import Row, batch_of, encode
from serval_sglang.demo.corpus import Conversation
from serval_sglang.demo.rendering import render
from serval_sglang.reference import ReferenceModel

_ROWS = 16


class TurnScore(NamedTuple):
    """Score of one assistant turn."""

    text: str  # the expected text
    exact: bool  # greedy decoding writes it
    chance: float  # probability that sampling at the given temperature writes it


def score(
    model: ReferenceModel, tokenizer: Tokenizer, items: Sequence[Conversation], *, temperature: float
) -> list[list[TurnScore]]:
    """Return the scores of the assistant turns of each conversation, in order."""
    rows = [encode(tokenizer, render(item)) for item in items]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    scores: list[list[TurnScore]] = [[] for _ in rows]
    for start in range(0, len(order), _ROWS):
        chosen = order[start : start + _ROWS]
        for index, turns in zip(
            chosen, _score_rows(model, tokenizer, [rows[i] for i in chosen], temperature), strict=True
        ):
            scores[index] = turns
    return scores


@torch.no_grad()
def _score_rows(
    model: ReferenceModel, tokenizer: Tokenizer, rows: Sequence[Row], temperature: float
) -> Iterator[list[TurnScore]]:
    batch = batch_of(rows)
    logits = model(batch.input_ids).float()
    right = logits.argmax(-1) == batch.targets
    chosen = (logits / temperature).log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
    for row in range(len(rows)):
        turns = []
        for start, end in _runs(batch.spoken[row].tolist()):
            turns.append(
                TurnScore(
                    tokenizer.decode(batch.targets[row, start:end].tolist(), skip_special_tokens=False),
                    bool(right[row, start:end].all()),
                    chosen[row, start:end].sum().exp().item(),
                )
            )
        yield turns


def _runs(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Return half-open ranges where `flags` is true."""
    start = None
    for index, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = index
        elif not flag and start is not None:
            yield start, index
            start = None


@torch.no_grad()
def complete(model: ReferenceModel, tokenizer: Tokenizer, prompt: str, *, max_tokens: int = 160) -> str:
    """Decode greedily after `prompt`, without the end of turn. Slow, because nothing is cached."""
    ids: list[int] = tokenizer.encode(prompt).ids
    written: list[int] = []
    while len(written) < max_tokens:
        token = int(model(torch.tensor([ids + written]))[0, -1].argmax())
        if token == model.config.eos_token_id:
            break
        written.append(token)
    text: str = tokenizer.decode(written, skip_special_tokens=False)
    return text
