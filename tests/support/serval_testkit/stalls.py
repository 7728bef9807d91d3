"""Runs pytest while its processes are stopped at random for up to a second, as on a busy machine.

    python tests/support/serval_testkit/stalls.py [--seed N] [pytest's arguments]

Each process is stopped on its own, about every twenty seconds, so programs wait for each other in an order
that no quiet machine shows. Shells, which would take it for their user's Ctrl-Z, are left alone, as is
PostgreSQL.
"""

import argparse
import contextlib
import random
import subprocess
import sys
import time

import psutil

_TICK_S = 0.05
_CHANCE = 1 / 400  # in each tick
_STALL_S = (0.1, 1.0)
_LEFT_ALONE = {"bash", "sh", "postgres"}


def main() -> int:
    """Return pytest's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    args, arguments = parser.parse_known_args()
    choose = random.Random(args.seed)
    tests = subprocess.Popen([sys.executable, "-m", "pytest", *arguments])
    stopped: dict[psutil.Process, float] = {}
    try:
        while tests.poll() is None:
            stall(psutil.Process(tests.pid), stopped, choose)
            time.sleep(_TICK_S)
    finally:
        resume(list(stopped))
    return tests.returncode


def stall(tests: psutil.Process, stopped: dict[psutil.Process, float], choose: random.Random) -> None:
    """Let those go on whose time is over, and stop others; `stopped` has the time until which."""
    now = time.monotonic()
    over = [process for process, until in stopped.items() if until <= now]
    resume(over)
    for process in over:
        del stopped[process]
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [tests, *tests.children(recursive=True)]:
            if process not in stopped and choose.random() < _CHANCE and process.name() not in _LEFT_ALONE:
                process.suspend()
                stopped[process] = now + choose.uniform(*_STALL_S)


def resume(processes: list[psutil.Process]) -> None:
    """Let processes go on, if they still exist."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


if __name__ == "__main__":
    sys.exit(main())
