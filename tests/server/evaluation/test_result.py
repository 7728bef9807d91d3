"""Scores over trials, and their report."""

from pathlib import Path

import msgspec
import pytest

from serval.evaluation.intervals import clustered, wilson
from serval.evaluation.outcomes import Outcome
from serval.evaluation.recording import Exchange
from serval.evaluation.report import report
from serval.evaluation.result import result_of
from serval.evaluation.suites import Suite
from serval_testkit.evaluation import MANIFEST


def exchange(status: int, end: str) -> Exchange:
    answer = {"choices": [{"finish_reason": end}]} if status == 200 else {"error": {}}
    return Exchange(path="", request={}, status=status, answer=answer, began=0, seconds=0)


def test_result_of_one_trial_has_wilsons_interval() -> None:
    outcomes = [Outcome("a", str(number), float(number < 3)) for number in range(4)] + [
        Outcome("b", "0", 0.0)
    ]
    result = result_of([outcomes], [exchange(200, "stop"), exchange(200, "length"), exchange(400, "")])
    assert (result.score.problems, result.score.mean) == (5, 0.6)
    assert (result.score.low, result.score.high) == wilson(3, 5)
    assert {task: score.mean for task, score in result.tasks.items()} == {"a": 0.75, "b": 0.0}
    assert result.interval == "Wilson"
    assert (result.requests, result.refused, result.cut) == (3, 1, 1)


def test_result_of_trials_counts_problems_not_answers() -> None:
    trials = [[Outcome("a", "0", 1.0), Outcome("a", "1", float(trial == 0))] for trial in range(4)]
    result = result_of(trials, [])
    assert (result.score.problems, result.score.mean, result.trials) == (2, 0.625, 4)
    assert (result.score.low, result.score.high) == clustered([1.0, 0.25])
    assert result.interval == "standard error over problems"


@pytest.mark.parametrize(
    ("suite", "shown", "not_shown"),
    [
        (Suite(title="t", harness="h", tasks=("a",)), ["paper                    no figure"], "left open"),
        (
            Suite(title="t", harness="h", tasks=("a",), paper=66.78, paper_setting="avg@16", trials=16),
            ["66.78 % (avg@16)", "left open by the paper   temperature, top_p"],
            "number of trials",
        ),
        (
            Suite(title="t", harness="h", tasks=("a",), paper=96.8),
            ["96.80 % (number of trials not stated)", "harness and its version, number of trials"],
            "avg@",
        ),
    ],
)
def test_report_puts_the_paper_beside_the_score(suite: Suite, shown: list[str], not_shown: str) -> None:
    result = result_of([[Outcome("a", "0", 1.0), Outcome("a", "1", 0.0)]], [])
    text = report(suite, msgspec.structs.replace(MANIFEST, limit=2), result, Path("out"))
    assert "50.0 % of 2 problems, 95 % interval 9.5 to 90.5 (Wilson), the first 2 of each task" in text
    assert all(each in text for each in [*shown, "checkpoint sha256:1", "Serval 1", "seed 0"])
    assert not_shown not in text
