"""Running one step: a process group of its own, a limit of time, and nothing left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
# Ctrl-C first, at which programs stop the engines that they have started; seconds to wait after each.
_STOPS = ((signal.SIGINT, 20.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
_ORPHAN_GRACE_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """End of a process: `stopped` if the limit was reached. `seconds` is its duration."""

    code: int
    seconds: float
    stopped: bool


def adopt_orphans() -> None:
    """Make processes whose parents end children of this one, so that `run` can end them. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(
    command: Sequence[str], *, folder: Path, environment: dict[str, str], log: Path, limit_s: float
) -> Outcome:
    """Run `command` in `folder`, appending its output to `log`; stop it after `limit_s` seconds.

    Any other exception, Ctrl-C among them, stops it too and goes on. Processes that it leaves behind, adopted
    or in its group, are ended: an engine that kept its GPU memory would turn every later step red.
    """
    begin = time.monotonic()
    before = _children()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stopped = False
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            stopped = True
        finally:
            _stop(process)
            _end_orphans(before)
    code = process.poll()
    return Outcome(-signal.SIGKILL if code is None else code, time.monotonic() - begin, stopped)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    for number, grace_s in _STOPS:
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    # Others of its group may live on.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end_orphans(before: set[int]) -> None:
    """End the children that this process has besides `before`, and their children, which become its own."""
    begin = time.monotonic()
    while (orphans := _children() - before) and time.monotonic() < begin + 2 * _ORPHAN_GRACE_S:
        number = signal.SIGTERM if time.monotonic() < begin + _ORPHAN_GRACE_S else signal.SIGKILL
        for orphan in orphans:
            with suppress(ProcessLookupError):
                os.kill(orphan, number)
            with suppress(ChildProcessError):
                os.waitpid(orphan, os.WNOHANG)
        time.sleep(0.05)


def _children() -> set[int]:
    return {
        int(entry) for entry in os.listdir("/proc") if entry.isdecimal() and _parent(entry) == os.getpid()
    }


def _parent(process: str) -> int:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # it has ended
        return 0
    # The name, in parentheses, may contain anything.
    return int(stat.rpartition(")")[2].split()[1])
