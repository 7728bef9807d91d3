"""The tests of `on_triton/` under Triton's interpreter, in a separate process (see conftest.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from serval_kernels.launch import INTERPRETED

FOLDER = Path(__file__).parent / "on_triton"


@pytest.mark.skipif(
    INTERPRETED or torch.cuda.is_available(), reason="on_triton/ is collected in this process"
)
def test_kernels_pass_their_tests_under_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(finished.stdout[-3000:])
    assert finished.returncode == 0, finished.stdout[-20000:] + finished.stderr[-2000:]
