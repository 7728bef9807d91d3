"""Client programs in tests/e2e/clients, built on common libraries. Each prints its results as JSON."""

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = ROOT / "tests/e2e/clients"
PROGRAMS = (
    "openai_client.py",
    "anthropic_client.py",
    "langchain_client.py",
    "openai_client.mjs",
    "anthropic_client.mjs",
    "ai_sdk.mjs",
    "openai_responses.py",
    "openai_responses.mjs",
)
# The same with the other locked version of the package. The newest asks for Node 22 and runs on Debian's too.
OTHER_VERSIONS = ("openai_client.mjs openai-newest", "openai_responses.mjs openai")
MODEL = "longcat-flash-lite-demo"


@lru_cache
def clients_environment() -> Path:
    """Return the folder of the Python environment with these clients; skip if it cannot be created."""
    made = subprocess.run(
        [ROOT / "deploy/setup/setup.sh", "--clients"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"deploy/setup/setup.sh --clients needs the package index: {made.stderr[-300:]}")
    return Path(made.stdout.strip())


@lru_cache
def _node() -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("needs Node and npm; install Debian's nodejs and npm")
    installed = CLIENTS / "node_modules/.package-lock.json"
    lock = CLIENTS / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        made = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--prefer-offline"],
            cwd=CLIENTS, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"npm ci needs the package index: {made.stderr[-300:]}")
    return node


def installed_script(path: str) -> Path:
    """Return a file of the npm packages; skip if they cannot be installed."""
    _node()
    return CLIENTS / "node_modules" / path


def command_of(program: str) -> list[str | Path]:
    """Return the command that runs a program, given with its arguments; skip if it cannot be installed."""
    name, *arguments = program.split()
    runner: str | Path = _node() if name.endswith(".mjs") else clients_environment() / "bin/python"
    return [runner, CLIENTS / name, *arguments]


def assert_complete(results: dict[str, Any]) -> None:
    """Check the results of a client: answers, streams, a call, JSON by schema, an error, an abort."""
    assert results["text"].startswith("Serval is an inference server")
    assert results["streamed"] == results["text"]
    # The request after the abort asks for only the first tokens of the same answer.
    assert results["after_abort"]
    assert results["text"].startswith(results["after_abort"])
    assert results["call"] == {"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}
    assert results["streamed_call"] == results["call"]
    assert results["structured"] in ({"capital": "Paris"}, {"capital": "Rome"})
    assert results["error"] in (
        {"status": 404, "code": "model_not_found", "param": "model"},
        {"status": 404, "type": "not_found_error"},
    )
