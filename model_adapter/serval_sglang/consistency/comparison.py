"""Distance between two answers to the same question."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serval_sglang.verify.comparison import Difference, Disagreement
from serval_sglang.verify.engine import DType, Generation
from serval_sglang.verify.verification import BOUNDS, Bound

# Lead of one token over another, in nats, that rounding may turn round. In bfloat16 it includes that of a
# router's choice, which moves single log-probabilities by far more than the mean.
TIES: dict[DType, float] = {"float32": 4e-3, "bfloat16": 0.25}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Answers asked in another way, compared with the first ones.

    `equal` of the `requests` answers have the same tokens. The others part: at a tie, which rounding explains
    and `difference.ties` counts, or elsewhere, of which `difference.first_disagreement` is the first place.
    """

    way: str
    requests: int
    equal: int
    difference: Difference
    bound: Bound

    @property
    def agrees(self) -> bool:
        return self.difference.first_disagreement is None and self.bound.allows(self.difference)

    def __str__(self) -> str:
        got = self.difference
        parts = [f"{self.equal} of {self.requests} answers have equal tokens"]
        if got.ties:
            parts.append(f"{got.ties} part at a tie")
        if got.first_disagreement is not None:
            place = got.first_disagreement
            parts.append(f"request {place.request} parts at position {place.position}, which is no tie")
        value = getattr(got, self.bound.statistic)
        parts.append(
            f"{self.bound.statistic} |difference of log-probability| {value:.2g}, bound {self.bound.value:g}"
        )
        return f"{'agrees' if self.agrees else 'DISAGREES'}  {self.way}: {'; '.join(parts)}"


def agreement(
    way: str,
    first: Sequence[Generation],
    others: Sequence[Generation],
    *,
    dtype: DType,
    bound: Bound | None = None,
) -> Agreement:
    """Compare answers to the same prompts, pair by pair, up to the place where their tokens part.

    Up to there both have computed the same context, so log-probabilities are compared with those places
    included. `bound` replaces the one of `dtype`. Raises `ValueError` if prompts differ.
    """
    errors: list[float] = []
    positions = ties = equal = 0
    disagreement = None
    for number, (one, other) in enumerate(zip(first, others, strict=True)):
        if tuple(one.prompt) != tuple(other.prompt):
            raise ValueError(f"request {number}: the answers belong to different prompts.")
        parting = _parting(one, other)
        compared = len(one.output_ids) if parting is None else parting + 1
        positions += compared
        for step in range(compared):
            errors += _errors(one, other, step)
        if parting is None:
            equal += 1
        elif _lead(one, other, parting) <= TIES[dtype]:
            ties += 1
        elif disagreement is None:
            disagreement = Disagreement(number, len(one.prompt) + parting)
    difference = Difference(
        maximum=max(errors, default=0.0),
        mean=math.fsum(errors) / max(len(errors), 1),
        count=len(errors),
        kl=0.0,
        positions=positions,
        ties=ties,
        first_disagreement=disagreement,
    )
    return Agreement(way, len(first), equal, difference, bound or BOUNDS[dtype])


def _parting(one: Generation, other: Generation) -> int | None:
    """Return the first step at which the tokens differ, None if there is none."""
    pairs = zip(one.output_ids, other.output_ids, strict=True)
    return next((step for step, (a, b) in enumerate(pairs) if a != b), None)


def _errors(one: Generation, other: Generation, step: int) -> list[float]:
    tops = one.output_top[step], other.output_top[step]
    assert tops[0] is not None
    assert tops[1] is not None
    return [abs(tops[0][token] - tops[1][token]) for token in tops[0].keys() & tops[1].keys()]


def _lead(one: Generation, other: Generation, step: int) -> float:
    """Return by how much `one` preferred its own token to the other's; infinite beyond the reported ones."""
    top = one.output_top[step]
    assert top is not None
    return top[one.output_ids[step]] - top.get(other.output_ids[step], -math.inf)
