"""This machine: its GPUs, memory and packages, and those of them that a step lacks."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serval_load.gpu_check.step import Needs

_GIB = 1 << 30
_VERSIONS = ("torch", "triton", "sglang")
_QUERY = "--query-gpu=name,memory.total,memory.used,compute_cap,driver_version"


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver lists it."""

    name: str
    memory_gib: float
    used_gib: float
    capability: float


@dataclass(frozen=True)
class Machine:
    """GPUs, memory of the host, and versions of packages ("" for one that is absent)."""

    gpus: tuple[Gpu, ...]
    driver: str
    host_memory_gib: float
    versions: Mapping[str, str]

    def __str__(self) -> str:
        names = ", ".join(gpu.name for gpu in self.gpus) or "no GPU"
        versions = ", ".join(f"{name} {version or 'absent'}" for name, version in self.versions.items())
        driver = f", driver {self.driver}" if self.driver else ""
        return f"{names}{driver}; Python {platform.python_version()}, {versions}"


def this_machine() -> Machine:
    """Ask driver, system and this Python."""
    gpus, driver = _gpus()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
    return Machine(gpus, driver, memory, {name: _version(name) for name in _VERSIONS})


def missing(needs: Needs, machine: Machine, *, work: Path, model: str) -> str:
    """Return what the machine lacks, "" if it lacks nothing."""
    return "; ".join(_missing(needs, machine, work=work, model=model))


def missing_packages(needs: Needs) -> str:
    """Return the packages that this Python lacks, "" if it lacks none."""
    absent = [name for name in needs.packages if importlib.util.find_spec(name) is None]
    return f"needs the package {', '.join(absent)} in {sys.executable}" if absent else ""


def _missing(needs: Needs, machine: Machine, *, work: Path, model: str) -> Iterator[str]:
    if needs.model and not model:
        yield "needs MODEL=DIR, a checkpoint of the model"
    if len(machine.gpus) < needs.gpus:
        yield f"needs {needs.gpus} GPUs, this machine has {len(machine.gpus)}"
    smallest = min((gpu.memory_gib for gpu in machine.gpus), default=0.0)
    if smallest < needs.gpu_memory_gib:
        yield f"needs {needs.gpu_memory_gib:g} GiB of GPU memory, there are {smallest:.0f}"
    lowest = min((gpu.capability for gpu in machine.gpus), default=0.0)
    if lowest < needs.capability:
        yield f"needs compute capability {needs.capability:g}, this is {lowest:g}"
    if machine.host_memory_gib < needs.host_memory_gib:
        yield f"needs {needs.host_memory_gib:g} GiB of host memory, there are {machine.host_memory_gib:.0f}"
    free = shutil.disk_usage(work).free / _GIB
    if free < needs.disk_gib:
        yield f"needs {needs.disk_gib:g} GiB of disk at {work}, {free:.0f} are free"
    if packages := missing_packages(needs):
        yield packages
    if absent := [name for name in needs.programs if shutil.which(name) is None]:
        yield f"needs the program {', '.join(absent)}"


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), ""
    try:
        listed = subprocess.run(
            [program, _QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return (), ""
    rows = [
        [cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.count(",") == 4
    ]
    gpus = tuple(
        Gpu(name, _number(total) / 1024, _number(used) / 1024, _number(capability))
        for name, total, used, capability, _ in rows
    )
    return gpus, rows[0][-1] if rows else ""


def _number(cell: str) -> float:
    """Return the number, or 0 for one that this GPU does not tell, such as "[N/A]"."""
    try:
        return float(cell)
    except ValueError:
        return 0.0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
