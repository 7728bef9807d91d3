"""How far an engine's log-probabilities are from the reference model's, on the tokens the engine chose."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from serval_sglang.reference import ReferenceModel
from serval_testkit.engine import Generation


@dataclass(frozen=True, slots=True)
class Difference:
    """Absolute differences of log-probabilities over ``count`` (position, token) pairs."""

    maximum: float
    mean: float
    count: int


def difference(generations: Iterable[Generation], reference: ReferenceModel) -> Difference:
    """Compare every reported log-probability, of output and prompt positions, with the reference's."""
    errors: list[float] = []
    for generation in generations:
        errors.extend(_errors(generation, reference))
    return Difference(max(errors), sum(errors) / len(errors), len(errors))


def rounding_in_bfloat16(generations: Iterable[Generation], reference: ReferenceModel) -> Difference:
    """How far the reference itself moves when it computes in bfloat16, at the places of ``generations``.

    Any bfloat16 engine has to be allowed this: where the router's choice is close, rounding changes experts.
    """
    rounded = copy.copy(reference)
    rounded.compute_dtype = torch.bfloat16
    return difference((_as_told_by(rounded, generation) for generation in generations), reference)


def random_prompt(length: int, *, vocab_size: int, eos_token_id: int, seed: int) -> list[int]:
    """Random tokens, every tenth or so an end of sequence, with ids from 3 on for the others."""
    generator = random.Random(seed * 1_000_003 + length)
    return [
        eos_token_id if generator.random() < 0.1 else generator.randrange(3, vocab_size)
        for _ in range(length)
    ]


def _logprobs(generation: Generation, reference: ReferenceModel) -> Tensor:
    """[T, V], row t predicts token t + 1."""
    sequence = torch.tensor([[*generation.prompt, *generation.output_ids]])
    with torch.no_grad():
        logits: Tensor = reference(sequence)[0]
    return logits.float().log_softmax(-1)


def _as_told_by(model: ReferenceModel, generation: Generation) -> Generation:
    """The generation with the log-probabilities that ``model`` gives for the same tokens."""
    told = _logprobs(generation, model)

    def replaced(
        tops: Sequence[Mapping[int, float] | None], rows: Tensor
    ) -> list[Mapping[int, float] | None]:
        pairs = zip(tops, rows, strict=False)
        return [top and {token: float(row[token]) for token in top} for top, row in pairs]

    output = replaced(generation.output_top, told[len(generation.prompt) - 1 :])
    prompt = [None, *replaced(generation.prompt_top[1:], told)]
    return replace(generation, output_top=output, prompt_top=prompt)


def _errors(generation: Generation, reference: ReferenceModel) -> Iterable[float]:
    expected = _logprobs(generation, reference)
    first_output = len(generation.prompt) - 1
    yield from _row_errors(generation.output_top, expected[first_output:])
    # The first prompt token is predicted by nothing.
    yield from _row_errors(generation.prompt_top[1:], expected)


def _row_errors(tops: Sequence[Mapping[int, float] | None], expected: Tensor) -> Iterable[float]:
    for top, row in zip(tops, expected, strict=False):
        assert top, "the engine gave no log-probabilities for a position"
        for token, logprob in top.items():
            yield abs(logprob - float(row[token]))
