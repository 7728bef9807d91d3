"""Functions stay as they are written, however `torch.compile` is applied to them."""

import subprocess
import sys

import torch

from serval_sglang.cpu_compat.uncompiled import uncompiled


def double(x: torch.Tensor) -> torch.Tensor:
    """The doubled tensor."""
    return x * 2


def test_uncompiled_returns_functions_and_modules_themselves() -> None:
    module = torch.nn.Linear(1, 1)
    assert uncompiled(double) is double
    assert uncompiled(double, dynamic=True) is double
    assert uncompiled(dynamic=True, disable=False)(double) is double
    assert uncompiled(module, backend="eager") is module


def test_calls_import_no_compiler() -> None:
    program = (
        "import sys, torch; from serval_sglang.cpu_compat.uncompiled import leave_functions_uncompiled;"
        "leave_functions_uncompiled(); double = torch.compile(dynamic=True)(lambda x: x * 2);"
        "assert double(torch.ones(1)) == 2; sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
