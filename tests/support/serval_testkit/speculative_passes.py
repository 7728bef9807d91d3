"""Requests that come and go in a few slots while each pass accepts only some of its tokens, as lists."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from serval_kernels.ngram_context import ring_columns
from serval_kernels.ngram_ids import NgramHash, ngram_hash
from serval_testkit.ngram_definition import TINY_NGRAM, row_ids_at

EOS = 2
_SLOTS = 5
_LONGEST = 40

Rows = list[list[int]]


def passes_with_rejections(
    decode: Callable[..., Tensor],
    extend: Callable[..., Tensor],
    *,
    width: int,
    passes: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Rows, Rows]]:
    """Yield row ids of each pass as computed by the steps, and as the definition gives for whole sequences.

    Every slot but 0 begins with a prompt of random length. A pass then brings `width` tokens for each, of
    which a random number from 1 on is accepted and the rest forgotten. When a sequence is long, its slot goes
    to a new request. The ring holds rubbish at first.
    """
    rng = random.Random(seed)
    columns = ring_columns(order=TINY_NGRAM.max_order, width=width)
    ring = torch.full((_SLOTS, columns), 9, dtype=torch.int32, device=device)
    hashed = NgramHash(*(part.to(device) for part in _HASH))
    state: dict[str, Any] = {"ngram": hashed, "eos_token_id": EOS}
    sequences: dict[int, list[int]] = {}

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device)

    def tokens(count: int) -> list[int]:
        # End-of-sequence tokens are frequent, so that they occur at every distance.
        return [rng.choice([EOS, rng.randrange(TINY_NGRAM.vocab_size)]) for _ in range(count)]

    for _ in range(passes):
        new = [slot for slot in range(1, _SLOTS) if len(sequences.get(slot, [0] * _LONGEST)) >= _LONGEST]
        if new:
            prompts = [tokens(rng.randint(1, 6)) for _ in new]
            lengths = [len(prompt) for prompt in prompts]
            rows = extend(
                tensor([token for prompt in prompts for token in prompt]),
                ring,
                slots=tensor(new),
                positions=tensor([place for length in lengths for place in range(length)]),
                starts=tensor([sum(lengths[:i]) for i in range(len(lengths))]),
                lengths=tensor(lengths),
                before=torch.zeros(len(new), TINY_NGRAM.max_order - 1, dtype=torch.int32, device=device),
                **state,
            )
            sequences.update(zip(new, prompts, strict=True))
            yield rows.tolist(), [row for prompt in prompts for row in _rows(prompt, 0)]
        slots = list(sequences)
        rng.shuffle(slots)
        brought = [tokens(width) for _ in slots]
        starts = [len(sequences[slot]) for slot in slots]
        # The last request is padding of a CUDA graph.
        rows = decode(
            tensor([*(token for run in brought for token in run), *[0] * width]),
            ring,
            slots=tensor([*slots, 0]),
            positions=tensor([*(start + i for start in starts for i in range(width)), *[0] * width]),
            width=width,
            **state,
        )
        yield (
            rows[: len(slots) * width].tolist(),
            [
                row
                for slot, run in zip(slots, brought, strict=True)
                for row in _rows(sequences[slot] + run, len(sequences[slot]))
            ],
        )
        for slot, run in zip(slots, brought, strict=True):
            sequences[slot] += run[: rng.randint(1, width)]


_HASH = ngram_hash(
    vocab_size=TINY_NGRAM.vocab_size,
    base=TINY_NGRAM.base,
    max_order=TINY_NGRAM.max_order,
    splits=TINY_NGRAM.splits,
)


def _rows(sequence: list[int], first: int) -> Rows:
    return [row_ids_at(sequence, i, TINY_NGRAM, eos_token_id=EOS) for i in range(first, len(sequence))]
