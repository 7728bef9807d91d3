"""Description of the machine that figures were measured on."""

import os
import platform
import subprocess
import time
from pathlib import Path


def describe(*, gateways: Path | None = None) -> str:
    """One line: date, processor, cores, load, Python. `gateways` is their interpreter if it is another."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {model}, {len(models)} cores, load {load:.1f} at the end,"
        f" Python {platform.python_version() if gateways is None else version_of(gateways)}"
    )


def version_of(python: Path) -> str:
    """Version and build as in `sys.version`: `3.11.2 (main, Apr 28 2025, 14:11:48)`."""
    said = subprocess.run(
        [python, "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=True
    )
    return said.stdout.partition(" [")[0].strip()
