"""Set-up of a checkout: advice about a missing compiler on a machine with a GPU."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from serval_testkit.operator_tools import ROOT

SETUP = ROOT / "deploy/setup/setup.sh"
# Programs that set-up needs before it looks for Python, of which there is none here: it changes nothing.
NEEDED = ("bash", "dirname", "env")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of the only programs on the PATH."""
    for name in NEEDED:
        found = shutil.which(name)
        if found is not None:
            (tmp_path / name).symlink_to(found)
    return tmp_path


def advice(folder: Path, **variables: str) -> bool:
    """True if set-up asks for a C++ compiler."""
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    environment |= {"PATH": str(folder), "PYTHON": "", **variables}
    done = subprocess.run([SETUP], env=environment, capture_output=True, text=True, check=False)
    assert "needs Python 3.11 or 3.12" in done.stderr
    return "no C++ compiler" in done.stderr


def test_setup_asks_for_a_compiler_on_a_machine_with_a_gpu(folder: Path) -> None:
    assert not advice(folder)
    (folder / "nvidia-smi").touch(mode=0o755)
    assert advice(folder)
    (folder / "g++-13").touch(mode=0o755)
    assert not advice(folder, CXX="g++-13")
    (folder / "c++").touch(mode=0o755)
    assert not advice(folder)
    (folder / "c++").rename(folder / "g++")
    assert not advice(folder)
