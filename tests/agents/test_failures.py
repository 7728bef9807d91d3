"""Failures of one turn, and a tool that does not exist: an agent of each API goes on."""

from pathlib import Path

import pytest

from serval_testkit.agent_session import agent_session
from serval_testkit.agent_tasks import DONE, TASK, turns_of
from serval_testkit.scripted_engine import calls, failing_once, steps
from serval_testkit.stand_in_engine import Answer


@pytest.mark.parametrize("agent", ["claude-code", "codex", "pi"])
@pytest.mark.parametrize(
    "failure",
    [
        Answer(fault="http_error", status=503, message="busy"),
        Answer(["I will "], fault="cut"),
        Answer(["I will "], fault="error_event", status=500),
    ],
    ids=["engine busy", "connection cut", "error in the stream"],
)
async def test_failure_of_one_turn_does_not_end_the_session(
    agent: str, failure: Answer, tmp_path: Path
) -> None:
    script = failing_once(steps(TASK, turns_of(agent, tmp_path / "work")), failure, turn=1)
    async with agent_session(agent, tmp_path, script) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert DONE in ended.output
        assert "a + b" in (tmp_path / "work/calc.py").read_text()


@pytest.mark.parametrize(
    ("agent", "complaint"),
    [
        ("claude-code", "No such tool available: teleport"),
        ("codex", "unsupported call: teleport"),
        ("pi", "Tool teleport not found"),
    ],
)
async def test_unknown_tool_is_answered_by_the_client(agent: str, complaint: str, tmp_path: Path) -> None:
    script = steps(TASK, [calls("teleport", to="here"), DONE])
    async with agent_session(agent, tmp_path, script) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert complaint in session.conversation[-1].last
