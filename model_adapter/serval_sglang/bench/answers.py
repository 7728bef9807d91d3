"""Comparison of a variant's answers before it is timed: with itself in a batch, and with another variant.

It finds tables in the wrong place, a second stream that overtakes the first, and batches that disturb each
other. It is no comparison with the definition of the model: `serval checkpoint verify` makes that one.
"""

import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from serval_sglang.bench.rows import OK

# Mean difference of log-probabilities. Two paths through bfloat16 layers differ by about 0.01; with random
# weights, answers to different prompts differ by about 1.
_LARGEST_DIFFERENCE = 0.05
_PROMPTS, _PROMPT_TOKENS, _SEED = 4, 32, 1


class Engine(Protocol):
    """The part of `Server` that is used here."""

    @property
    def vocab_size(self) -> int: ...

    def log_probabilities(self, prompts: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of each token after the first, by prompt; all run in one batch."""


@dataclass(frozen=True)
class Answers:
    """Log-probabilities of the first variant with certain weights, and its name."""

    first: dict[Hashable, tuple[str, list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Mean differences of log-probabilities, alone and `beside_others`, and `as_in` another variant."""

    check: str
    beside_others: float | None = None
    compared_with: str | None = None
    as_in: float | None = None


def compare_answers(engine: Engine, known: Answers, *, variant: str, weights: Hashable) -> Comparison:
    """Ask `engine` and compare; keep its answers in `known` if they are the first with such `weights`."""
    random = Random(_SEED)
    prompts = [
        [random.randrange(3, engine.vocab_size) for _ in range(_PROMPT_TOKENS)] for _ in range(_PROMPTS)
    ]
    (alone,) = engine.log_probabilities(prompts[:1])
    beside, *_ = engine.log_probabilities(prompts)
    if not all(map(math.isfinite, [*alone, *beside])):
        return Comparison("failed: a log-probability is not finite")
    beside_others = _difference(alone, beside)
    if beside_others > _LARGEST_DIFFERENCE:
        return Comparison(
            f"failed: log-probabilities differ by {beside_others:.3g} beside other requests", beside_others
        )
    if weights not in known.first:
        known.first[weights] = variant, alone
        return Comparison(OK, beside_others)
    other, expected = known.first[weights]
    as_in = _difference(alone, expected)
    check = OK
    if as_in > _LARGEST_DIFFERENCE:
        check = f"failed: log-probabilities differ by {as_in:.3g} from those of {other!r}"
    return Comparison(check, beside_others, other, as_in)


def _difference(some: Sequence[float], others: Sequence[float]) -> float:
    return statistics.fmean(abs(a - b) for a, b in zip(some, others, strict=True))
