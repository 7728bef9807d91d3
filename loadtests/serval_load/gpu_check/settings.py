"""The environment of the check and of its steps. Only this module reads it."""

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_SOURCES = ("server", "model_adapter", "kernels", "loadtests", "tests/support")
_DEFAULT_FOLDER = "gpu-check"


def default_folder() -> Path:
    """Return the folder for results: the variable OUT if it is set, else ./gpu-check."""
    return Path(os.environ.get("OUT") or _DEFAULT_FOLDER)


def step_environment(added: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a step, in which this checkout's packages are importable."""
    paths = [str(ROOT / source) for source in _SOURCES]
    if inherited := os.environ.get("PYTHONPATH"):
        paths.append(inherited)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **added}
