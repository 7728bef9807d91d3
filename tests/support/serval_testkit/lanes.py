"""Runs all tests as two pytest processes side by side: those on the real engine, and all others.

    python tests/support/serval_testkit/lanes.py [pytest's arguments]

Most tests keep one core busy, so on two cores both lanes take little more time than the longer of them. The
output of one is shown as it comes, then the other's. The last line adds both up:
`N passed, N failed, N skipped`.
"""

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
    "without an engine": "not engine and not rehearsal",
    "on the engine": "engine or rehearsal",
}
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
    """Run both lanes; return the worse of pytest's exit codes."""
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
            # Ctrl-C has reached both lanes, which now write their summaries.
            for lane in lanes:
                lane.process.wait()
        counts = add_up(lane.log.read_text(encoding="utf-8", errors="replace") for lane in lanes)
        codes = [lane.process.wait() for lane in lanes]
    print(f"both lanes, {time.monotonic() - started:.0f} s: {summary(counts)}", flush=True)
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
