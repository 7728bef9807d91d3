"""README examples print the output that the README shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.engine

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
DOCUMENTED_URL = "http://127.0.0.1:8000"


def code_block(language: str, *, containing: str = "") -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    found = [block for block in blocks if containing in block]
    assert len(found) == 1, f"{len(found)} blocks of {language} with {containing!r}"
    return found[0]


def run_example(argv: list[str], server: Any) -> str:
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        env={**os.environ, "SERVAL_API_KEY": server.api_key},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def here(example: str, server: Any) -> str:
    assert DOCUMENTED_URL in example
    return example.replace(DOCUMENTED_URL, server.root_url)


def without_what_changes(completion: dict[str, Any]) -> dict[str, Any]:
    """Remove id and time, and the cached tokens, which depend on earlier requests."""
    kept = {key: value for key, value in completion.items() if key not in {"id", "created"}}
    kept["usage"].pop("prompt_tokens_details")
    return kept


def test_curl_example_prints_what_it_says(server: Any) -> None:
    printed = run_example(["bash", "-c", here(code_block("bash", containing="curl"), server)], server)
    documented = json.loads(code_block("json"))
    assert without_what_changes(json.loads(printed)) == without_what_changes(documented)


def test_python_example_prints_what_it_says(server: Any) -> None:
    printed = run_example([sys.executable, "-c", here(code_block("python"), server)], server)
    assert printed == code_block("text")
