"""A GPU that is not there: answers of torch, `nvidia-smi` and the dynamic linker, and no computation.

SGLang asks which GPU it runs on when its modules are imported, and keeps the answers, so `imitate` comes
before the first import of SGLang in a process. A question that is not answered here, and any use of the GPU,
fails as on a machine without a driver.
"""

import os
import stat
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

_HIDDEN = ""  # CUDA_VISIBLE_DEVICES of a process that is to see no GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class ImitatedGpu:
    """Name and memory as the driver lists them, and compute capability."""

    name: str
    capability: tuple[int, int]
    memory_mib: int
    processors: int

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib << 20


GPUS = {
    "A100": ImitatedGpu(name="NVIDIA A100-SXM4-80GB", capability=(8, 0), memory_mib=81_920, processors=108),
    "H100": ImitatedGpu(name="NVIDIA H100 80GB HBM3", capability=(9, 0), memory_mib=81_559, processors=132),
    "H200": ImitatedGpu(name="NVIDIA H200", capability=(9, 0), memory_mib=143_771, processors=132),
    "B200": ImitatedGpu(name="NVIDIA B200", capability=(10, 0), memory_mib=183_359, processors=148),
}

_NVIDIA_SMI = """\
#!/bin/sh
# Answers --query-gpu=FIELDS --format=csv,noheader[,nounits] for {count} GPUs.
unit=" MiB"
for argument; do
  case $argument in
    --query-gpu=*) fields=$(echo "${{argument#*=}}" | tr , " ") ;;
    --format=*nounits*) unit= ;;
  esac
done
for gpu in $(seq {count}); do
  line=
  for field in $fields; do
    case $field in
      name) value="{name}" ;;
      memory.total) value="{memory_mib}$unit" ;;
      compute_cap) value={major}.{minor} ;;
      *) echo "imitated nvidia-smi: no answer for $field" >&2; exit 2 ;;
    esac
    line="${{line:+$line, }}$value"
  done
  echo "$line"
done
"""

# Functions without which the libraries of sgl_kernel and of Triton's driver cannot be loaded.
_LIBCUDA_FUNCTIONS = (
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuCtxGetLimit",
    "cuCtxSetCurrent",
    "cuCtxSetLimit",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuFuncSetCacheConfig",
    "cuGetErrorString",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuPointerGetAttribute",
)
_ERROR_STUB_LIBRARY = 34  # as NVIDIA's own stub of this library returns


def imitate(gpu: ImitatedGpu, *, count: int) -> None:
    """Let torch report `count` such GPUs, for the rest of this process, unless CUDA_VISIBLE_DEVICES hides
    them."""
    properties = SimpleNamespace(
        name=gpu.name,
        major=gpu.capability[0],
        minor=gpu.capability[1],
        total_memory=gpu.memory_bytes,
        multi_processor_count=gpu.processors,
        warp_size=32,
    )
    _answer(
        is_available=_visible,
        device_count=lambda: count if _visible() else 0,
        current_device=lambda: 0,
        get_device_name=lambda device=None: gpu.name,
        get_device_capability=lambda device=None: gpu.capability,
        get_device_properties=lambda device=None: properties,
        _get_nvml_device_index=_no_nvml,
    )


@contextmanager
def imitate_undecided() -> Iterator[None]:
    """Let torch report a GPU of a kind that is decided later, for imports that all kinds can share.

    Raises `AssertionError` at the end if anything asked for the kind, even if it caught the exception then.
    """
    asked: list[str] = []

    def refuse(device: object = None) -> NoReturn:
        asked.append("".join(traceback.format_stack(limit=8)))
        raise AssertionError("the GPU is not decided yet")

    _answer(
        is_available=_visible,
        get_device_name=lambda device=None: "NVIDIA",  # SGLang looks for other makers' names in it
        get_device_capability=refuse,
        get_device_properties=refuse,
        _get_nvml_device_index=refuse,
    )
    yield
    assert not asked, asked[0]


def write_nvidia_smi(folder: Path, gpu: ImitatedGpu, *, count: int) -> Path:
    """Write a program that answers SGLang's and the doctor's questions, and return its path."""
    program = folder / "nvidia-smi"
    major, minor = gpu.capability
    program.write_text(
        _NVIDIA_SMI.format(count=count, name=gpu.name, memory_mib=gpu.memory_mib, major=major, minor=minor)
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def build_libcuda(folder: Path) -> None:
    """Build a driver's library whose functions fail.

    Raises `subprocess.CalledProcessError` or `FileNotFoundError` without a C compiler.
    """
    source = "".join(f"int {name}(void) {{ return {_ERROR_STUB_LIBRARY}; }}\n" for name in _LIBCUDA_FUNCTIONS)
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([*command, "-x", "c", "-"], input=source, text=True, check=True)


def _no_nvml(device: object) -> NoReturn:
    """Keep SGLang from asking NVML about a GPU that is there: it asks torch instead."""
    raise RuntimeError("imitated GPUs are unknown to NVML")


def _answer(**answers: Callable[..., Any]) -> None:
    import torch

    for question, answer in answers.items():
        setattr(torch.cuda, question, answer)


def _visible() -> bool:
    return os.environ.get("CUDA_VISIBLE_DEVICES") != _HIDDEN
