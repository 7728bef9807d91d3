"""Decision on one step: run it, take over an earlier result, or say why not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serval_load.gpu_check.record import Result, State
from serval_load.gpu_check.step import Step

_WORDS: Mapping[State, str] = {
    "green": "is green",
    "red": "is red",
    "stopped": "was stopped at its limit",
    "skipped": "was skipped",
    "blocked": "was not made",
    "no time": "had no time",
    "interrupted": "was interrupted",
}


@dataclass(frozen=True)
class Run:
    """Run the step, for at most `limit_s` seconds."""

    limit_s: float


def decide(
    step: Step,
    *,
    results: Mapping[str, Result],
    earlier: Callable[[Step], Result | None],
    missing: Callable[[Step], str],
    left_s: float,
) -> Run | Result:
    """Return `Run`, or the result that the step has without running.

    `results` are those of this run, `earlier` returns a result that still holds, and `missing` names a lack
    of the machine. A step that measures needs its checks green: speed of a wrong path is not reported.
    """
    if lacking := missing(step):
        return Result(step.name, "skipped", lacking)
    for name in step.after:
        before = results.get(name)
        if before is None or before.state != "green":
            verb = "measured" if step.measures else "checked"
            state = "has not run" if before is None else _WORDS[before.state]
            return Result(step.name, "blocked", f"not {verb}: {name!r} {state}")
    if (found := earlier(step)) is not None:
        return found
    if left_s < step.expected_s:
        return Result(
            step.name, "no time", f"takes about {step.expected_s:.0f} s, {max(left_s, 0):.0f} are left"
        )
    return Run(min(step.limit_s, left_s))
