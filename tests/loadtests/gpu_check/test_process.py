"""Running a step: its limit, its group, and processes that it leaves behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serval_load.gpu_check.process import Outcome, run

# Shells, because a program that starts slowly would be stopped before it is ready.
IGNORES_SIGNALS = "trap '' INT TERM; sleep 600"
CLEANS_UP = "trap 'echo stopped the engine; exit 1' INT; sleep 600 & wait"
# A step that ends at once, and an engine in a session of its own that would keep the GPU's memory.
LEAVES_ENGINE = """
import subprocess, sys
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(engine.pid, flush=True)
"""
ADOPTING = """
import sys
from pathlib import Path
from serval_load.gpu_check import process
process.adopt_orphans()
process.run(sys.argv[1:], folder=Path(), environment={}, log=Path("log.txt"), limit_s=30)
"""


def run_logged(command: list[str], folder: Path, *, limit_s: float = 30.0) -> tuple[Outcome, str]:
    log = folder / "log.txt"
    outcome = run(command, folder=folder, environment=dict(os.environ), log=log, limit_s=limit_s)
    return outcome, log.read_text()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_run_reports_code_and_output(tmp_path: Path) -> None:
    outcome, said = run_logged(["sh", "-c", "echo out; echo err >&2; exit 3"], tmp_path)
    assert (outcome.code, outcome.stopped) == (3, False)
    assert sorted(said.split()) == ["err", "out"]


def test_run_appends_to_the_log(tmp_path: Path) -> None:
    run_logged(["echo", "first"], tmp_path)
    assert run_logged(["echo", "second"], tmp_path)[1] == "first\nsecond\n"


def test_run_stops_at_the_limit_as_ctrl_c_does(tmp_path: Path) -> None:
    outcome, said = run_logged(["sh", "-c", CLEANS_UP], tmp_path, limit_s=1.0)
    assert outcome.stopped
    assert "stopped the engine" in said


def test_run_kills_what_ignores_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serval_load.gpu_check import process

    monkeypatch.setattr(process, "_STOPS", tuple((number, 0.3) for number, _ in process._STOPS))
    outcome, _ = run_logged(["sh", "-c", IGNORES_SIGNALS], tmp_path, limit_s=1.0)
    assert outcome.stopped
    assert outcome.code == -9


def test_run_ends_the_engine_that_a_step_left_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "loadtests")}
    step = [sys.executable, "-c", LEAVES_ENGINE]
    subprocess.run([sys.executable, "-c", ADOPTING, *step], cwd=tmp_path, env=environment, check=True)
    engine = int((tmp_path / "log.txt").read_text())
    deadline = time.monotonic() + 60
    while is_alive(engine) and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = is_alive(engine)
    if alive:
        os.kill(engine, 9)
    assert not alive
