"""Popular clients, unmodified (tests/e2e/clients), against the real server."""

import json
import os
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from serval_testkit.clients import PROGRAMS, assert_complete, command_of

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def ends(server: Any) -> dict[str, Future[subprocess.CompletedProcess[str]]]:
    """Results of the client programs, which run at once because the engine batches their requests."""
    environment = {**os.environ, "SERVAL_API_KEY": server.api_key, "SERVAL_BASE_URL": server.base_url}

    def run(command: list[Any]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    with ThreadPoolExecutor(len(PROGRAMS)) as pool:
        return {program: pool.submit(run, command) for program, command in commands().items()}


def commands() -> dict[str, list[Any]]:
    """Commands that can run here; the tests of the others are skipped with the reason."""
    found = {}
    for program in PROGRAMS:
        try:
            found[program] = command_of(program)
        except pytest.skip.Exception:
            continue
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_client_gets_everything_an_agent_needs(
    ends: dict[str, Future[subprocess.CompletedProcess[str]]], program: str
) -> None:
    command_of(program)
    done = ends[program].result()
    assert done.returncode == 0, done.stderr
    assert_complete(json.loads(done.stdout))
