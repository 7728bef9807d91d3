"""Environment and flags of an engine on a CPU. Imports nothing of SGLang."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

STANDIN_PACKAGES = Path(__file__).parent / "standin_packages"

# fp32 head: a CPU has no matrix product with bfloat16 inputs and float32 output. The token limit replaces
# sizing by free memory, which SGLang cannot do with bound threads and which would take most of a laptop's
# memory. Idle schedulers sleep: polling takes a core that tests and the gateway need.
FLAGS: Sequence[str] = (
    "--attention-backend=torch_native",
    "--enable-fp32-lm-head",
    "--max-total-tokens=65536",
    "--max-running-requests=32",
    "--sleep-on-idle",
)


def cpu_environment(inherited: Mapping[str, str], *, ranks: int, cpus: Sequence[int]) -> dict[str, str]:
    """Variables to add to ``inherited``. Thread settings of the user stay; PYTHONPATH is extended; GPUs are
    hidden.

    Args:
        ranks: scheduler processes that share the machine.
        cpus: ids of the CPUs this process may use.
    """
    path = [str(STANDIN_PACKAGES), *filter(None, [inherited.get("PYTHONPATH")])]
    defaults = {
        "OMP_NUM_THREADS": str(max(1, len(cpus) // ranks)),
        # Threads that spin while they wait for each other are a little faster on an idle machine. If another
        # program keeps one of two cores busy, they wait for its time slices: the demo took 450 s to start
        # instead of 60.
        "OMP_WAIT_POLICY": "passive",
        # NumPy and SciPy start their threads when they are imported; with any, SGLang's processes cannot be
        # forked (see forked_processes).
        "OPENBLAS_NUM_THREADS": "1",
        # For spawned processes; forks have `uncompiled`, which also saves the import of the compiler.
        "TORCHDYNAMO_DISABLE": "1",
    }
    if ranks > 1:
        # Without this SGLang requires one NUMA node per rank.
        defaults["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(_shares(cpus, ranks))
    return {
        **{name: value for name, value in defaults.items() if name not in inherited},
        "SGLANG_USE_CPU_ENGINE": "1",
        # SGLang's is_cuda() asks torch, not --device: beside a GPU it would load CUDA kernels.
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(path),
    }


def _shares(cpus: Sequence[int], ranks: int) -> list[str]:
    """CPU ids for each rank; with fewer CPUs than ranks, ranks share."""
    size = max(1, len(cpus) // ranks)
    shares = [cpus[(rank * size) % len(cpus) :][:size] for rank in range(ranks)]
    return [",".join(map(str, share)) for share in shares]
