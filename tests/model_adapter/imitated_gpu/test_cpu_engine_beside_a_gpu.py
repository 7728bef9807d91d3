"""`--device cpu` on a machine that has a GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from serval_sglang.launch import engine_environment
from serval_sglang.options import EngineOptions
from serval_testkit.repository import ROOT

pytestmark = pytest.mark.timeout(600)

_PROGRAM = """
from serval_testkit.imitated_gpu import GPUS, imitate
imitate(GPUS["H100"], count=1)
from serval_sglang.cpu_compat.deferred_compile import defer_compilation
defer_compilation()
from serval_sglang.plugin import register
register()
from sglang.kernels.fused_op import _platform_key
from sglang.srt.utils import is_cpu, is_cuda
print("CPU", is_cpu(), "CUDA", is_cuda(), "kernels", _platform_key())
"""


def test_cpu_engine_does_not_see_the_gpu() -> None:
    """SGLang's is_cuda() asks torch, not --device: with a visible GPU the plugin could not take effect."""
    if find_spec("sglang") is None:
        pytest.skip("needs SGLang, which is installed with the engine")
    inherited = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support"), "CUDA_VISIBLE_DEVICES": "0"}
    environment = engine_environment(EngineOptions(model=Path(), device="cpu"), inherited, [0])
    command = [sys.executable, "-P", "-c", _PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "CPU True CUDA False" in done.stdout, done.stderr[-2000:]
    assert "kernels cuda" not in done.stdout
