"""The kernels compiled by Triton 3.6 as well, the version beside torch 2.11 on machines without SGLang.

Registers differ between versions by design, so the table in BENCHMARKS.md is not compared here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serval_kernels.bench.aot import COMPUTE_CAPABILITIES

ROOT = Path(__file__).parents[2]
PINNED = "3.6.0"
# Most bytes of shared memory that a program may ask for, by compute capability (CUDA C++ Programming Guide).
MOST_SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = subprocess.run(
        [ROOT / "deploy/setup/setup.sh", "--triton"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"deploy/setup/setup.sh --triton needs the package index: {made.stderr[-300:]}")
    (packages,) = Path(made.stdout.strip()).glob("lib/python3.*/site-packages")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT / "kernels")]),
        # Kernels that an earlier run has compiled would not be compiled again.
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
    }
    environment.pop("TRITON_INTERPRET", None)
    program = Path(__file__).parent / "usage_of_every_kernel.py"
    done = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_second_triton_is_the_pinned_version(compiled: dict[str, Any]) -> None:
    pinned = (ROOT / "deploy/setup/second-triton.txt").read_text()
    assert f"triton=={PINNED} " in pinned
    assert compiled["triton"] == PINNED


def test_second_triton_compiles_every_kernel_for_each_gpu(compiled: dict[str, Any]) -> None:
    targets = [kernel["target"].rstrip("af,") for kernel in compiled["kernels"]]
    assert len(targets) == 13 * len(COMPUTE_CAPABILITIES)
    assert targets == [str(capability) for capability in COMPUTE_CAPABILITIES] * 13


def test_kernels_of_second_triton_fit_each_gpu(compiled: dict[str, Any]) -> None:
    for kernel in compiled["kernels"]:
        assert kernel["spilled_bytes"] == 0, kernel
        assert kernel["shared_bytes"] <= MOST_SHARED_BYTES[kernel["compute_capability"]], kernel
        # As for the locked Triton: at least half of a multiprocessor's 2,048 threads can be resident.
        assert kernel["registers"] <= 64, kernel
