"""The tests of this folder with a newer Transformers than SGLang pins."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).parents[3]
NEWEST = "5.24.0"


# Installs packages, and runs dozens of tests.
@pytest.mark.timeout(900)
def test_model_is_the_same_with_the_newest_transformers() -> None:
    made = subprocess.run(
        [ROOT / "deploy/setup/setup.sh", "--transformers"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"deploy/setup/setup.sh --transformers needs the package index: {made.stderr[-300:]}")
    (packages,) = Path(made.stdout.strip()).glob("lib/python3.*/site-packages")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=300"]
    done = subprocess.run(
        [*command, Path(__file__).parent, f"--ignore={__file__}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 40


def test_newest_transformers_is_another_than_the_locked_one() -> None:
    assert f"transformers=={NEWEST} " in (ROOT / "deploy/setup/newest-transformers.txt").read_text()
    assert transformers.__version__ != NEWEST
