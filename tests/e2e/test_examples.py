"""Agents in server/examples, run unmodified."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serval_testkit.clients import CLIENTS, command_of

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "server" / "examples"
# The demo model's answer from the results, word for word.
ANSWER = "answer: The weather in Paris: sunny, 21 °C. I could not get the weather in Rome: unknown city."


def printed(program: str | Path, example: str, server: Any, *question: str) -> list[str]:
    environment = {**os.environ, "SERVAL_API_KEY": server.api_key, "SERVAL_BASE_URL": server.base_url}
    done = subprocess.run(
        [program, EXAMPLES / example, *question],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_openai_agent_makes_parallel_calls_and_reports_an_error(server: Any) -> None:
    paris, rome, *_, last = printed(sys.executable, "agent_loop.py", server)
    assert paris.startswith(
        'get_weather {"city": "Paris", "days": 2} -> {"city": "Paris", "forecast": "sunny"'
    )
    assert rome == 'get_weather {"city": "Rome", "days": 2} -> {"error": "unknown city"}'
    assert last == ANSWER


def test_node_agent_makes_the_same_calls_and_gives_the_same_answer(server: Any, tmp_path: Path) -> None:
    node = command_of("openai_client.mjs")[0]
    # Node looks for packages beside the program.
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    program = shutil.copy(EXAMPLES / "agent_loop.mjs", tmp_path)
    assert printed(node, program, server) == [
        'get_weather Paris -> {"city":"Paris","forecast":"sunny","temp_c":21}',
        'get_weather Rome -> {"error":"unknown city"}',
        ANSWER,
    ]


def test_openai_agent_calls_two_tools(server: Any) -> None:
    question = "What's the weather in Paris and what time is it in Tokyo?"
    lines = printed(sys.executable, "agent_loop.py", server, question)
    assert lines[0].startswith('get_weather {"city": "Paris", ')
    assert lines[1] == 'get_time {"city": "Tokyo"} -> {"city": "Tokyo", "time": "22:05"}'
    assert lines[-1].startswith("answer: ")


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of the examples' own environment."""
    environment = subprocess.run(
        [ROOT / "deploy/setup/setup.sh", "--examples"], capture_output=True, text=True, check=False
    )
    assert environment.returncode == 0, environment.stderr
    return Path(environment.stdout.strip()) / "bin" / "python"


def test_pydantic_ai_agent_calls_a_tool_and_answers(server: Any, python: Path) -> None:
    call, *_, answer = printed(python, "pydantic_ai_agent.py", server)
    assert call == 'get_weather {"city": "Paris", "days": 3}'
    assert answer.startswith("answer: ")
    assert "sunny" in answer


def test_repository_agent_runs_within_its_budget(server: Any, python: Path) -> None:
    # The demo model knows no such tools: it is the loop that is tested, not the answer.
    options = (str(EXAMPLES), "What is Serval?", "--budget", "6000")
    *_, answer, spent = printed(python, "repository_agent.py", server, *options)
    assert answer.startswith("answer: ")
    assert re.fullmatch(r"\d+ requests, [\d,]+ tokens sent, [\d,]+ of them in the cache", spent)


def test_log_agent_runs_within_its_budget(server: Any, tmp_path: Path) -> None:
    log = tmp_path / "small.log"
    made = [sys.executable, EXAMPLES / "sample_log.py", "1", log]
    assert subprocess.run(made, check=False).returncode == 0
    lines = printed(sys.executable, "log_agent.py", server, str(log), "What is Serval?", "--budget", "6000")
    assert lines[-2].startswith("answer: ")
    assert "tokens sent" in lines[-1]
