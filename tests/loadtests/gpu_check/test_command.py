"""`python -m serval_load.gpu_check` as a program: without a GPU, interrupted, and in rehearsal."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serval_load.gpu_check import __main__ as command
from serval_load.gpu_check.machine import Gpu, Machine
from serval_load.gpu_check.settings import ROOT

NO_GPU = Machine((), "", 64.0, {})
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "loadtests")}
# A stand-in for a step, long enough to be interrupted.
LONG = """
import sys
from serval_load.gpu_check.__main__ import main
from serval_load.gpu_check.step import Step
script = "import time; print('running', flush=True); time.sleep(600)"
quick = Step("a: quick", "stand-in", rehearsal=("-c", "print('done')"), expected_s=1, limit_s=60)
step = Step("a: long", "stand-in", rehearsal=("-c", script), expected_s=1, limit_s=600)
sys.exit(main(["--rehearse", "--out", sys.argv[1]], [quick, step]))
"""


def test_command_without_a_gpu_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "this_machine", lambda: NO_GPU)
    assert command.main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "REHEARSE=1" in said.err
    assert said.out == ""
    assert not (tmp_path / "out").exists()


def test_command_warns_of_a_gpu_in_use() -> None:
    busy = Machine((Gpu("Stand-in GPU", 80.0, 40.0, 9.0), Gpu("Stand-in GPU", 80.0, 0.4, 9.0)), "", 64.0, {})
    assert len(command._warnings(busy)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_interrupted_keeps_the_results_so_far(tmp_path: Path, number: signal.Signals) -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", LONG, str(tmp_path)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    log = tmp_path / "log.txt"
    while not (log.exists() and "running" in log.read_text()) and started.poll() is None:
        time.sleep(0.05)
    started.send_signal(number)
    said, _ = started.communicate(timeout=60)
    assert started.returncode == 130
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["step"], line["state"]) for line in lines] == [
        ("a: quick", "green"),
        ("a: long", "interrupted"),
    ]
    assert "the results so far are kept" in said
    assert "a: quick" in (tmp_path / "report.md").read_text()


def test_command_rehearses_a_step_from_this_checkout_alone(tmp_path: Path) -> None:
    command_line = [
        sys.executable,
        "-m",
        "serval_load.gpu_check",
        "--rehearse",
        "--only",
        "adapter: compilers",
    ]
    done = subprocess.run(
        command_line, env={**ENVIRONMENT, "OUT": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "results.jsonl").read_text())
    assert (result["step"], result["state"]) == ("adapter: compilers", "green")
    assert "cuda compiler" in (tmp_path / "log.txt").read_text()
    assert "| adapter: compilers |" in (tmp_path / "report.md").read_text()
