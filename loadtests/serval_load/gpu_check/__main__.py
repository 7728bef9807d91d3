"""Run everything that waits for a GPU, within a time, and write each result down.

A second run goes on where the first stopped: steps that were green with the same code, GPUs, versions and
command are not repeated. Exit code 0: nothing is red. 1: something is, or was stopped at its limit. 2: wrong
use, or no GPU.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from serval_load.gpu_check import process, terminal
from serval_load.gpu_check.execution import Execution, execute
from serval_load.gpu_check.machine import Machine, this_machine
from serval_load.gpu_check.record import Result, code_digest
from serval_load.gpu_check.settings import ROOT, default_folder
from serval_load.gpu_check.step import Step
from serval_load.gpu_check.steps import STEPS

_IN_USE_GIB = 1.0
_NO_GPU = (
    "gpu-check: this machine has no NVIDIA GPU (nvidia-smi lists none); `make gpu-check REHEARSE=1` runs in "
    "small what a CPU can."
)
_EXAMPLES = """\
examples:
  make gpu-check                            ten minutes
  make gpu-check MINUTES=60 MODEL=/models/LongCat-Flash-Lite
  PYTHONPATH=loadtests python3 -m serval_load.gpu_check --only kernels    needs torch and Triton, nothing else
"""


def main(arguments: Sequence[str] | None = None, steps: Sequence[Step] = STEPS) -> int:
    """Run the chosen steps and return the exit code."""
    made = parser(steps)
    args = made.parse_args(arguments)
    chosen = [step for step in steps if not args.only or {step.name, step.group} & set(args.only)]
    if args.list:
        print("\n".join(terminal.listing(chosen)))
        return 0
    machine = this_machine()
    if not machine.gpus and not args.rehearse:
        print(_NO_GPU, file=sys.stderr)
        return 2
    _stop_on_signals()
    process.adopt_orphans()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.out.resolve()
    heading = f"{'Rehearsal on a CPU: ' if args.rehearse else ''}{machine}"
    _show(heading)
    for warning in _warnings(machine):
        _show(warning)
    model = str(args.model.resolve()) if args.model else ""
    execution = Execution(folder, machine, code_digest(ROOT), model, rehearse=args.rehearse, show=_show)
    return _finish(chosen, execution, heading, seconds=60 * args.minutes)


def parser(steps: Sequence[Step]) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    groups = dict.fromkeys(step.group for step in steps)
    made = argparse.ArgumentParser(
        prog="python -m serval_load.gpu_check",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--minutes", type=float, default=10.0, metavar="N", help="time for all of it (default 10)")
    add("--model", type=Path, metavar="DIR", help="the real weights, for the steps that need them")
    add(
        "--out",
        type=Path,
        default=default_folder(),
        metavar="DIR",
        help="for results (default: $OUT, or gpu-check)",
    )
    add("--only", nargs="+", metavar="STEP", choices=[*groups, *(step.name for step in steps)],
        help=f"parts ({', '.join(groups)}) or names of steps")  # fmt: skip
    add("--rehearse", action="store_true", help="run on a CPU, in small, the steps that can")
    add("--list", action="store_true", help="show the steps and run none")
    return made


def _finish(steps: Sequence[Step], execution: Execution, heading: str, *, seconds: float) -> int:
    results: list[Result] = []
    code = 0
    try:
        for result in execute(steps, execution, seconds=seconds):
            results.append(result)
    except KeyboardInterrupt:
        code = 130
        _show("interrupted; the results so far are kept")
    page = execution.folder / "report.md"
    page.write_text(terminal.report(heading, results, {step.name: step for step in steps}), encoding="utf-8")
    _show(f"{terminal.summary(results)}; {page}, log {execution.log_file}")
    if any(result.state == "no time" for result in results):
        _show("the same command again goes on from here")
    return code or int(any(result.state in ("red", "stopped") for result in results))


def _warnings(machine: Machine) -> list[str]:
    return [
        f"warning     {gpu.name} is in use: {gpu.used_gib:.1f} GiB. Times and memory will suffer."
        for gpu in machine.gpus
        if gpu.used_gib > _IN_USE_GIB
    ]


def _stop_on_signals() -> None:
    """Have SIGTERM stop the running step as Ctrl-C does, also where a shell has set Ctrl-C to be ignored."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _show(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
