"""Examples that find no key or no server say so in one line. Their answers are compared in tests/e2e."""

import os
import subprocess
import sys

import pytest

from serval_testkit.repository import ROOT

UNUSED = "http://127.0.0.1:1/v1"


def ended(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVAL_")}
    command = [sys.executable, ROOT / "server/examples/agent_loop.py"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment | variables)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "SERVAL_API_KEY is not set: export the key that `make serve` showed"),
        (
            {"SERVAL_API_KEY": "k", "SERVAL_BASE_URL": UNUSED},
            f"no server answers at {UNUSED}: start one with `make serve`, or set SERVAL_BASE_URL",
        ),
    ],
    ids=["no key", "no server"],
)
def test_agent_without_key_or_server_says_so_in_one_line(variables: dict[str, str], says: str) -> None:
    done = ended(**variables)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{says}\n")
