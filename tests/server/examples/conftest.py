"""The examples are programs beside each other, not a package."""

import subprocess
import sys
from pathlib import Path

import pytest

from serval_testkit.repository import ROOT

EXAMPLES = ROOT / "server" / "examples"
sys.path.append(str(EXAMPLES))


@pytest.fixture(scope="session")
def examples_python() -> Path:
    """The Python of the examples' own environment, which has the parser and the ranking."""
    setup = [ROOT / "deploy/setup/setup.sh", "--examples"]
    environment = subprocess.run(setup, capture_output=True, text=True, check=True)
    return Path(environment.stdout.strip()) / "bin" / "python"
