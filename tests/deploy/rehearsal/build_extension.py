"""Builds, links and loads SGLang's activation kernels for Hopper, with the environment of an engine on a GPU.

Runs in the engine's container. No GPU is needed: the library is loaded, no kernel is launched.
"""

import subprocess
import sys

from serval_sglang.launch import engine_environment
from serval_sglang.options import DEMO_MODEL, EngineOptions
from serval_sglang.settings import available_cpus, inherited_environment

BUILD = """
import torch
from sglang.kernels.jit.utils.arch import override_jit_cuda_arch
from sglang.kernels.jit.utils.compile.cache import cache_root
from sglang.kernels.ops.activation.activation import activation_module
with override_jit_cuda_arch(9, 0):
    activation_module(torch.bfloat16)
print(*cache_root().glob("sm90a/*/*/*/*.so"))
"""

options = EngineOptions(model=DEMO_MODEL, device="cuda")
environment = engine_environment(options, inherited_environment(), available_cpus())
subprocess.run([sys.executable, "-P", "-c", BUILD], env=environment, check=True)
