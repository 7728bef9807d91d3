"""Decisions on one step: run it, take over an earlier result, or say why not."""

import pytest

from serval_load.gpu_check.decision import Run, decide
from serval_load.gpu_check.record import Result, State
from serval_load.gpu_check.step import Step

CHECK = Step("part: check", "stand-in for a check", ("-c", ""), expected_s=10, limit_s=60)
TIMES = Step(
    "part: times",
    "stand-in for a bench",
    ("-c", ""),
    expected_s=10,
    limit_s=60,
    after=(CHECK.name,),
    measures=True,
)


def decided(
    step: Step,
    *,
    check: State | None = "green",
    earlier: Result | None = None,
    missing: str = "",
    left_s: float = 100,
) -> Run | Result:
    results = {} if check is None else {CHECK.name: Result(CHECK.name, check)}
    return decide(step, results=results, earlier=lambda _: earlier, missing=lambda _: missing, left_s=left_s)


def test_decide_runs_a_step_to_its_limit_or_the_end_of_the_time() -> None:
    assert decided(CHECK) == Run(60)
    assert decided(CHECK, left_s=20) == Run(20)


def test_decide_starts_no_step_for_which_the_time_is_too_short() -> None:
    assert decided(CHECK, left_s=9) == Result(CHECK.name, "no time", "takes about 10 s, 9 are left")


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("red", "not measured: 'part: check' is red"),
        ("stopped", "not measured: 'part: check' was stopped at its limit"),
        ("skipped", "not measured: 'part: check' was skipped"),
        ("no time", "not measured: 'part: check' had no time"),
        (None, "not measured: 'part: check' has not run"),
    ],
)
def test_decide_measures_nothing_without_a_green_check(check: State | None, says: str) -> None:
    assert decided(TIMES, check=check) == Result(TIMES.name, "blocked", says)
    # Not even with figures from before, which may be those of a check that was still green.
    assert decided(TIMES, check=check, earlier=Result(TIMES.name, "green", before=True)) == Result(
        TIMES.name, "blocked", says
    )


def test_decide_names_a_check_that_is_not_made() -> None:
    step = Step("part: second", "stand-in", after=(CHECK.name,))
    found = decided(step, check="red")
    assert isinstance(found, Result)
    assert found.says == "not checked: 'part: check' is red"


def test_decide_takes_over_an_earlier_result_without_any_time_left() -> None:
    earlier = Result(CHECK.name, "green", "as before", before=True)
    assert decided(CHECK, earlier=earlier, left_s=0) is earlier


def test_decide_skips_with_the_reason() -> None:
    assert decided(CHECK, missing="needs 2 GPUs") == Result(CHECK.name, "skipped", "needs 2 GPUs")
