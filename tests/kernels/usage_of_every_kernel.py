"""Prints the version of Triton and what every compiled kernel uses, as JSON, for test_second_triton.py."""

import json
import sys

import triton

from serval_kernels.bench.aot import COMPUTE_CAPABILITIES, compile_launch, recorded_launches
from serval_kernels.bench.sizes import LITE

usages = [
    compile_launch(recorded, capability)
    for recorded in recorded_launches(LITE)
    for capability in COMPUTE_CAPABILITIES
]
# Ampere, Hopper and Blackwell have no code in common: the target is read off what was compiled.
kernels = [
    {
        "name": f"{usage.name} sm_{usage.compute_capability}",
        "target": usage.ptx.partition(".target sm_")[2].split()[0],
        "compute_capability": usage.compute_capability,
        "registers": usage.registers,
        "spilled_bytes": usage.spilled_bytes,
        "shared_bytes": usage.shared_bytes,
    }
    for usage in usages
]
json.dump({"triton": triton.__version__, "kernels": kernels}, sys.stdout)
