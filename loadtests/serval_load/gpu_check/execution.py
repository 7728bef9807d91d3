"""Execution of the steps, one after another, each written down when it has ended."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serval_load.gpu_check import process
from serval_load.gpu_check.decision import decide
from serval_load.gpu_check.machine import Machine, missing, missing_packages
from serval_load.gpu_check.record import Result, State, append, earlier_results, key_of, still_green
from serval_load.gpu_check.rows import Row, is_green, is_red, read_rows
from serval_load.gpu_check.settings import ROOT, step_environment
from serval_load.gpu_check.step import Step, words
from serval_load.gpu_check.terminal import log_tail, step_lines

# A few busy cores take the place of a GPU.
_REHEARSAL_SLACK = 4
# Lines in which checks of several parts report each of them.
_VERDICTS = ("green  ", "red    ", "agrees  ", "DISAGREES  ")


@dataclass(frozen=True)
class Execution:
    """Everything that is the same for all steps.

    `folder` receives results.jsonl, log.txt and, below work/, what steps hand on. `code` is a digest of the
    sources that results depend on. `show` prints a line. With `rehearse` each step runs its command for
    a CPU.
    """

    folder: Path
    machine: Machine
    code: str
    model: str
    rehearse: bool
    show: Callable[[str], None]

    @property
    def results_file(self) -> Path:
        return self.folder / "results.jsonl"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.txt"

    @property
    def work(self) -> Path:
        return self.folder / "work"


def execute(steps: Sequence[Step], execution: Execution, *, seconds: float) -> Iterator[Result]:
    """Yield the result of each step, in order, spending at most `seconds` in all.

    Raises `KeyboardInterrupt` after it has stopped the running step and written down that it was interrupted.
    """
    execution.work.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    earlier = earlier_results(execution.results_file)
    results: dict[str, Result] = {}
    for step in steps:
        decision = decide(
            step,
            results=results,
            earlier=lambda asked: _still_holds(asked, execution, earlier),
            missing=lambda asked: _lacking(asked, execution),
            left_s=end - time.monotonic(),
        )
        if isinstance(decision, Result):
            result = decision
        else:
            limit_s = decision.limit_s * (_REHEARSAL_SLACK if execution.rehearse else 1)
            execution.show(f"run         {step.name}: {step.shows} (at most {limit_s:.0f} s)")
            result = _run(step, execution, earlier.get(step.name), limit_s=limit_s)
        results[step.name] = result
        for line in step_lines(result):
            execution.show(line)
        yield result


def command_of(step: Step, execution: Execution) -> list[str]:
    """Return the command line of a step on this machine, or of its rehearsal."""
    chosen = step.rehearsal if execution.rehearse else step.command
    assert chosen is not None
    filled = words(
        chosen, work=str(execution.work), rows=str(_rows_file(step, execution)), model=execution.model
    )
    programs = () if execution.rehearse else step.programs_first
    return [*programs, sys.executable, *filled]


def _run(step: Step, execution: Execution, before: Result | None, *, limit_s: float) -> Result:
    command, key = command_of(step, execution), _key(step, execution)
    rows_file = _rows_file(step, execution)
    if before is None or before.key != key:
        # A bench goes on with the rows it finds, which may come from other code.
        rows_file.unlink(missing_ok=True)
    if step.writes:
        shutil.rmtree(execution.work / step.writes, ignore_errors=True)
    added = {**step.environment, **(step.rehearsal_environment if execution.rehearse else {})}
    log = execution.log_file
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n===== {time.strftime('%Y-%m-%d %H:%M:%S')} {step.name}\n$ {' '.join(command)}\n")
    start = log.stat().st_size
    begin = time.monotonic()
    try:
        outcome = process.run(
            command, folder=ROOT, environment=step_environment(added), log=log, limit_s=limit_s
        )
    except BaseException:
        interrupted = Result(step.name, "interrupted", seconds=time.monotonic() - begin, key=key)
        append(execution.results_file, interrupted, command=command)
        raise
    said = log.read_bytes()[start:].decode(errors="replace")
    result = _judged(step, outcome, said, rows=read_rows(rows_file), key=key)
    append(execution.results_file, result, command=command)
    if result.state in ("red", "stopped"):
        for line in log_tail(said):
            execution.show(line)
    return result


def _judged(step: Step, outcome: process.Outcome, said: str, *, rows: tuple[Row, ...], key: str) -> Result:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "no output"
    verdicts = tuple(line for line in lines if line.startswith(_VERDICTS))
    green, red = (sum(map(judge, rows)) for judge in (is_green, is_red))

    def result(state: State, says: str) -> Result:
        return Result(step.name, state, says, outcome.seconds, verdicts, rows, key)

    if outcome.stopped:
        return result("stopped", f"at its limit of time: {last}")
    if red:
        return result("red", f"{red} of {len(rows)} rows")
    if outcome.code:
        return result("red", f"exit code {outcome.code}: {last}")
    if step.measures and not green:
        return result("red", f"measured nothing: {last}")
    return result("green", f"{green} rows" if green else last)


def _key(step: Step, execution: Execution) -> str:
    environment = [f"{name}={value}" for name, value in sorted(step.environment.items())]
    return key_of(execution.code, execution.machine, [*environment, *command_of(step, execution)])


def _rows_file(step: Step, execution: Execution) -> Path:
    return execution.work / f"{step.file_name}.jsonl"


def _still_holds(step: Step, execution: Execution, earlier: Mapping[str, Result]) -> Result | None:
    if step.writes and not (execution.work / step.writes).is_dir():
        return None
    return still_green(step.name, _key(step, execution), earlier)


def _lacking(step: Step, execution: Execution) -> str:
    if not execution.rehearse:
        return missing(step.needs, execution.machine, work=execution.work, model=execution.model)
    if step.rehearsal is None:
        return "needs a GPU: no rehearsal on a CPU"
    return missing_packages(step.needs)
