"""Scores of single problems, as the programs write them."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from serval.evaluation.error import EvaluationError

OUTCOMES_FILE = "outcomes.jsonl"


class Outcome(msgspec.Struct, frozen=True):
    """Score of one problem in one trial, from 0 (wrong) to 1 (right). `id` is unique within its `task`."""

    task: str
    id: str
    score: float


def read_outcomes(path: Path) -> list[Outcome]:
    """Read the outcomes of a trial. Raises `EvaluationError` if there are none, or the file is damaged."""
    try:
        found = msgspec.json.decode(
            b"[" + b",".join(line for line in path.read_bytes().splitlines() if line) + b"]",
            type=list[Outcome],
        )
    except (OSError, msgspec.DecodeError) as error:
        raise EvaluationError(f"{path} does not hold the outcomes of a trial: {error}") from error
    if not found:
        raise EvaluationError(f"{path} is empty: the harness scored no problem")
    return found


def means_by_problem(trials: Sequence[Sequence[Outcome]]) -> dict[tuple[str, str], float]:
    """Return the mean score of each problem over its trials, by task and id."""
    scores: dict[tuple[str, str], list[float]] = {}
    for trial in trials:
        for outcome in trial:
            scores.setdefault((outcome.task, outcome.id), []).append(outcome.score)
    return {problem: sum(found) / len(found) for problem, found in scores.items()}
