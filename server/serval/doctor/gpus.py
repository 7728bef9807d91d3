"""Checks of what an engine needs on a GPU.

The names of backends are the defaults of SGLang 0.5.23 for LongCat: `_deepseek_family_overrides`
(srt/arg_groups/model_overrides/deepseek_v2.py:37), `get_default_attn_backend`
(srt/arg_groups/model_override_base.py:277) and `_sampling_backend_default`
(srt/arg_groups/overrides.py:1018). tests/model_adapter/imitated_gpu compares them.
"""

import importlib
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from serval.doctor.finding import Finding, State
from serval.doctor.packages import installed_version, pinned_version

_FLASHINFER = "flashinfer-python"
_TOOLKIT = "serval_sglang.cuda_toolkit"
# Attention backend by the major number of the GPU's compute capability; Triton for all others.
_ATTENTION_BACKENDS = {9: "fa3", 10: "trtllm_mla"}
_OTHER_ATTENTION_BACKEND = "triton"


class _Compilers(Protocol):
    """The programs that `serval_sglang.cuda_toolkit` found."""

    @property
    def nvcc(self) -> Path | None: ...
    @property
    def cxx(self) -> Path | None: ...
    @property
    def ninja(self) -> Path | None: ...
    def problem(self) -> str | None: ...


class _ToolkitModule(Protocol):
    """The function of `serval_sglang.cuda_toolkit` that is called here; it loads neither torch nor SGLang."""

    def find_compilers(self, environment: Mapping[str, str]) -> _Compilers: ...


@dataclass(frozen=True)
class Gpu:
    """One GPU: name and memory as the driver lists them, and its compute capability, such as "9.0"."""

    name: str
    capability: str

    @property
    def attention_backend(self) -> str:
        """Backend that SGLang chooses for LongCat-Flash-Lite on this GPU."""
        major = self.capability.partition(".")[0]
        return _ATTENTION_BACKENDS.get(int(major) if major.isdecimal() else 0, _OTHER_ATTENTION_BACKEND)


@dataclass(frozen=True)
class Gpus:
    """GPUs of this machine. `problem` states why there is none to use."""

    found: tuple[Gpu, ...] = ()
    state: State = "ok"
    problem: str = ""


def find_gpus() -> Gpus:
    """Ask the NVIDIA driver for its GPUs."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Gpus(
            state="warning", problem="no NVIDIA driver: engines run on the CPU, for tests and the demo"
        )
    query = [program, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Gpus(state="failed", problem=f"nvidia-smi does not work: {error}")
    found = tuple(_gpu(line) for line in listed.splitlines() if line.strip())
    if not found:
        return Gpus(state="warning", problem="the driver knows no GPU")
    return Gpus(found)


def _gpu(line: str) -> Gpu:
    name, _, capability = line.rpartition(",")
    return Gpu(name.strip(), capability.strip())


def gpu(gpus: Gpus) -> Finding:
    """List the GPUs that the driver knows."""
    return Finding("gpu", gpus.state, gpus.problem or "; ".join(gpu.name for gpu in gpus.found))


def flashinfer(gpus: Gpus) -> Finding:
    """Check that flashinfer is installed as SGLang needs it, and report its uses on these GPUs."""
    installed = installed_version(_FLASHINFER)
    if not gpus.found:
        return Finding("flashinfer", "ok", "not needed without a GPU: engines on a CPU leave it out")
    if installed_version("sglang") is None:
        return Finding("flashinfer", "ok", "not needed: no engine is installed here")
    backends = sorted({gpu.attention_backend for gpu in gpus.found})
    use = f"attention: {', '.join(backends)}; sampling: flashinfer"
    pinned = pinned_version("sglang", _FLASHINFER)
    if installed == pinned:
        return Finding("flashinfer", "ok", f"{installed} ({use})")
    problem = "it is not installed" if installed is None else f"{installed} is installed"
    return Finding("flashinfer", "failed", f"{problem}, SGLang needs {pinned} ({use})")


def cuda_compiler(gpus: Gpus, environment: Mapping[str, str]) -> Finding:
    """Check for the programs with which SGLang compiles CUDA kernels on first use, as the launcher does."""
    check = "cuda compiler"
    if not gpus.found:
        return Finding(check, "ok", "not needed without a GPU")
    if installed_version("sglang") is None:
        return Finding(check, "ok", "not needed: no engine is installed here")
    found = _toolkit_module().find_compilers(environment)
    problem = found.problem()
    if problem is not None:
        return Finding(check, "failed", problem)
    return Finding(check, "ok", ", ".join(str(path) for path in (found.nvcc, found.cxx, found.ninja)))


def _toolkit_module() -> _ToolkitModule:
    # By name, because the gateway installs and runs without the engine's package.
    return cast("_ToolkitModule", importlib.import_module(_TOOLKIT))
