"""Which machine the figures are of."""

import os
import platform
import time
from pathlib import Path


def described() -> str:
    """One line: date, processor, cores, load, Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {model}, {len(models)} cores, load {load:.1f} at the end,"
        f" Python {platform.python_version()}"
    )
