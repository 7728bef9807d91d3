"""Rehearsal of compose.yaml with the real engine: start, tool call, keys, scraping, drain, alert."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from serval_testkit.operator_tools import ROOT
from serval_testkit.processes import descendants, is_running, running

CANNOT = 77
SCRIPT = "tests/deploy/rehearsal/run.sh"
# Far less than the script takes to the end.
WAIT_S = 100

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0,
        reason=f"needs root on Linux, for namespaces and mounts; as root, {SCRIPT} or `make test` runs it",
    ),
    pytest.mark.usefixtures("tools"),
]


@pytest.mark.engine(alone=True)
@pytest.mark.timeout(1500)
def test_stack_starts_serves_and_stops() -> None:
    # If this process dies, the script stops too and clears up.
    with running(["setpriv", "--pdeathsig", "TERM", SCRIPT], cwd=ROOT, environment=os.environ) as rehearsal:
        status = rehearsal.wait(timeout_s=1400)
    print(rehearsal.output)
    if status == CANNOT:
        pytest.skip(rehearsal.lines[-1])
    assert status == 0, rehearsal.lines[-1]


def test_script_takes_all_its_processes_with_it() -> None:
    left = stopped_midway(signal.SIGKILL)
    stopped_midway(signal.SIGTERM)
    # The next run removes the leftovers of the killed one.
    assert not left.exists()


def stopped_midway(number: signal.Signals) -> Path:
    """Signal the script once its Docker Engine runs, check that all ends, and return its working folder."""
    with running([SCRIPT], cwd=ROOT, environment=os.environ) as rehearsal:
        pid = rehearsal.process.pid
        until(lambda: rehearsal.process.poll() is not None or folders_of_docker(pid))
        if rehearsal.process.poll() == CANNOT:
            pytest.skip(rehearsal.lines[-1])
        assert rehearsal.process.poll() is None, rehearsal.output
        started = descendants(pid)
        (data,) = folders_of_docker(pid)
        rehearsal.signal(number)
        until(lambda: not any(map(is_running, started)))
        rehearsal.wait(timeout_s=WAIT_S)
    return data.parent


def folders_of_docker(pid: int) -> list[Path]:
    """Data folders of the Docker Engines below a process."""
    found = []
    for below in descendants(pid):
        with suppress(OSError):  # the process has ended
            line = Path(f"/proc/{below}/cmdline").read_text().split("\0")
            if line[0] == "dockerd":
                found.append(Path(line[line.index("--data-root") + 1]))
    return found


def until(question: Callable[[], object]) -> None:
    """Wait until `question` is true."""
    deadline = time.monotonic() + WAIT_S
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.1)
