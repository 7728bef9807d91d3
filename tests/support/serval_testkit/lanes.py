"""Runs all tests as four pytest processes: on the real engine, of whole programs, of the server, of all else.

    python tests/support/serval_testkit/lanes.py [pytest's arguments]

Many tests wait for programs, for the server or for the engine, so four lanes keep two cores busy. The output
of one is shown as it comes, then that of the others. The last line adds all up:
`N passed, N failed, N skipped`.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.2
_NO_TESTS = 5
# One process: the caller chooses by marker, asks for information, or talks to the debugger.
_ONE_PROCESS = re.compile(r"-m.*|-h|--help|--version|--markers|--fixtures|--co|--collect-only|--pdb|--trace")
_EXPRESSIONS = {
    "of all else": "not engine and not programs and not server",
    "of the server": "server",
    "of programs": "programs",
    "on the engine": "engine and not programs",
}
# tests/conftest.py marks the tests in the first two, and refuses tests on the engine outside the last two.
SERVER_FOLDERS = ("tests/server",)
PROGRAM_FOLDERS = ("tests/agents", "tests/deploy", "tests/loadtests")
ENGINE_FOLDERS = ("tests/e2e", "tests/model_adapter")
# Collecting all other tests would take a lane a minute. Not given if the caller names paths; else the lane of
# all other tests ignores the folders whose tests are all another lane's.
_FOLDERS = {
    "of the server": SERVER_FOLDERS,
    "of programs": PROGRAM_FOLDERS,
    "on the engine": ENGINE_FOLDERS,
}
_OTHERS_FOLDERS = (*SERVER_FOLDERS, *PROGRAM_FOLDERS)
_COUNTED = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "errors": "failed",
    "skipped": "skipped",
}


@dataclass(frozen=True)
class Lane:
    """A pytest process whose output is written to `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def main(arguments: Sequence[str]) -> int:
    """Run all lanes; return the worse of pytest's exit codes."""
    if any(map(_ONE_PROCESS.fullmatch, arguments)):
        return subprocess.run(_pytest(*arguments), check=False).returncode
    started = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-lanes-")))
        lanes = [_start(name, arguments, folder, stack) for name in _EXPRESSIONS]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            for lane in lanes:
                _show(lane)
        except KeyboardInterrupt:
            # Ctrl-C has reached all lanes, which now write their summaries.
            for lane in lanes:
                lane.process.wait()
        counts = add_up(lane.log.read_text(encoding="utf-8", errors="replace") for lane in lanes)
        codes = [lane.process.wait() for lane in lanes]
    print(f"all lanes, {time.monotonic() - started:.0f} s: {summary(counts)}", flush=True)
    return worst(codes)


def add_up(logs: Iterable[str]) -> Counter[str]:
    """Sum the counts in the last lines of pytest's output; output without such a line counts as a failure."""
    total: Counter[str] = Counter()
    for log in logs:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
        endings = re.findall(r"^=* ?((?:\d+ \w+|no tests ran)[^\n]* in \d[\d.]*s\b)", plain, re.MULTILINE)
        if not endings:
            total["failed"] += 1
            continue
        for number, outcome in re.findall(r"(\d+) (\w+)", endings[-1]):
            if outcome in _COUNTED:
                total[_COUNTED[outcome]] += int(number)
    return total


def summary(counts: Counter[str]) -> str:
    """Format the counts as CI parses them."""
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))


def worst(codes: Sequence[int]) -> int:
    """Return 0 if all lanes passed or had no tests, else the code of one that did not."""
    if set(codes) == {_NO_TESTS}:
        return _NO_TESTS
    return max((abs(code) for code in codes if code != _NO_TESTS), default=0)


def _start(name: str, arguments: Sequence[str], folder: Path, stack: ExitStack) -> Lane:
    log = folder / name.replace(" ", "-")
    # Separate cache folders, because lanes would overwrite each other's list of failures.
    options = ["-m", _EXPRESSIONS[name], "-o", f"cache_dir=.pytest_cache/{log.name}"]
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        options += filter(os.path.isdir, _FOLDERS.get(name, ()))
        options += [f"--ignore={folder}" for folder in _OTHERS_FOLDERS if name not in _FOLDERS]
    if sys.stdout.isatty():
        options.append("--color=yes")
    with log.open("wb") as output:
        process = subprocess.Popen(
            _pytest(*options, *arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    stack.callback(_stop, process)
    return Lane(name, process, log)


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


def _show(lane: Lane) -> None:
    """Copy a lane's output until it has ended."""
    print(f"======== tests {lane.name} ========", flush=True)
    with lane.log.open("rb") as log:
        while True:
            ended = lane.process.poll() is not None
            sys.stdout.buffer.write(log.read())
            sys.stdout.flush()
            if ended:
                return
            time.sleep(_POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
