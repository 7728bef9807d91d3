"""Scripts beside the package: nothing else imports them, so a renamed function would go unnoticed."""

import subprocess
import sys
from pathlib import Path

import pytest

from serval_testkit.repository import ROOT

SCRIPTS = sorted((ROOT / "loadtests").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_finds_what_it_imports(script: Path) -> None:
    if script.stem == "fuzz_parser":
        pytest.importorskip("atheris", reason="atheris is not in the lock; install it to fuzz the parser")
    done = subprocess.run(
        [sys.executable, "-c", f"import {script.stem}"],
        cwd=script.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
