"""Without Triton the package imports and computes on the CPU; a launch on a GPU names the missing package."""

import subprocess
import sys

import pytest

from serval_kernels.launch import power_of_two

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch
from serval_kernels import combine_identity, launch, ngram_gather, ngram_step, route_topk
got = combine_identity.combine_identity(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1))
assert got.tolist() == [[2.0, 2.0]]
for kernel in (combine_identity._combine_kernel, route_topk._route_kernel):
    try:
        kernel[(1,)]()
    except launch.TritonMissingError as error:
        print(error)
"""


def test_package_without_triton_fails_only_at_launch() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("runs on a GPU through Triton, which is not installed") == 2


@pytest.mark.parametrize(("least", "expected"), [(0, 1), (1, 1), (2, 2), (3, 4), (384, 512), (512, 512)])
def test_power_of_two(least: int, expected: int) -> None:
    assert power_of_two(least) == expected
