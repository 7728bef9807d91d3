"""Score of a suite over its trials."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import msgspec

from serval.evaluation.intervals import clustered, wilson
from serval.evaluation.outcomes import Outcome, means_by_problem
from serval.evaluation.recording import Exchange


class Score(msgspec.Struct, frozen=True):
    """Mean score of problems, from 0 to 1, with the bounds of its 95 % interval."""

    problems: int
    mean: float
    low: float
    high: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Score of a run. `refused` are requests that the server answered with an error about the request.

    `cut` are answers that ended at the longest length. `tasks` are the scores by the harness's tasks.
    """

    score: Score
    trials: int
    interval: str
    tasks: dict[str, Score]
    requests: int
    refused: int
    cut: int


def result_of(trials: Sequence[Sequence[Outcome]], exchanges: Sequence[Exchange]) -> Result:
    """Return the result of trials that are all there."""
    means = means_by_problem(trials)
    by_task: dict[str, list[float]] = {}
    for (task, _), mean in means.items():
        by_task.setdefault(task, []).append(mean)
    ends = Counter(_end(exchange) for exchange in exchanges)
    return Result(
        score=_score(list(means.values()), len(trials)),
        trials=len(trials),
        interval="Wilson" if len(trials) == 1 else "standard error over problems",
        tasks={task: _score(found, len(trials)) for task, found in sorted(by_task.items())},
        requests=len(exchanges),
        refused=ends["refused"],
        cut=ends["length"],
    )


def _score(means: list[float], trials: int) -> Score:
    low, high = wilson(sum(means), len(means)) if trials == 1 else clustered(means)
    return Score(len(means), fmean(means), low, high)


def _end(exchange: Exchange) -> str:
    """Return `refused`, or the reason for which the answer's first choice ended."""
    if exchange.status != 200:
        return "refused"
    choices = exchange.answer.get("choices") or [{}]
    return str(choices[0].get("finish_reason"))
