"""Lines for the terminal and the report: one for each step, and one for each row it measured."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from serval_load.gpu_check import rows
from serval_load.gpu_check.record import Result
from serval_load.gpu_check.step import Step

_WIDTH = 28
_TAIL_LINES = 20


def step_lines(result: Result) -> Iterator[str]:
    """Yield the line of a finished step and those of its parts."""
    duration = "" if not result.seconds else f"{result.seconds:6.1f} s"
    before = " (before)" if result.before else ""
    yield f"{result.state:<11} {duration:>8}  {result.step:<{_WIDTH}} {result.says}{before}".rstrip()
    yield from (f"{'':<22} {line}" for line in (*result.verdicts, *row_lines(result)))


def row_lines(result: Result) -> Iterator[str]:
    """Yield a line for each row. If any check of the step is red, none of its figures is shown."""
    red = [row for row in result.rows if rows.is_red(row)]
    if red or result.state == "red":
        yield from (f"red    {rows.label(row)}: {row['check']}" for row in red)
        return
    yield from (f"{rows.label(row):<40} {rows.figures(row)}" for row in result.rows)


def log_tail(text: str) -> Iterator[str]:
    """Yield the end of a failed step's log."""
    yield from (f"{'':<22} | {line}" for line in text.splitlines()[-_TAIL_LINES:])


def summary(results: Sequence[Result]) -> str:
    """Return the last line: how many steps ended how."""
    counts: dict[str, int] = {}
    for result in results:
        counts[result.state] = counts.get(result.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def report(heading: str, results: Iterable[Result], steps: Mapping[str, Step]) -> str:
    """Return a page in Markdown with one table of the steps and one of the rows."""
    found = list(results)
    lines = [
        "# GPU check",
        "",
        heading,
        "",
        "| step | shows | result | s | |",
        "| --- | --- | --- | ---: | --- |",
    ]
    for result in found:
        shows = steps[result.step].shows
        cells = (result.step, shows, result.state, f"{result.seconds:.0f}", _cell(result.says))
        lines.append(f"| {' | '.join(cells)} |")
    for result in found:
        if parts := [*result.verdicts, *row_lines(result)]:
            lines += ["", f"## {result.step}", "", *(f"    {line}" for line in parts)]
    return "\n".join(lines) + "\n"


def listing(steps: Iterable[Step]) -> Iterator[str]:
    """Yield a line for each step: its time and what it shows."""
    for step in steps:
        yield f"{step.expected_s:5.0f} s  {step.name:<{_WIDTH}} {step.shows}"


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
