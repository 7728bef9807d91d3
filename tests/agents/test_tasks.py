"""Each agent does the task of `serval_testkit.agent_tasks`, configured by `serval agent`."""

import itertools
from pathlib import Path

import pytest

from serval_testkit.agent_session import agent_session
from serval_testkit.agent_tasks import DONE, NAMES, TASK, turns_of
from serval_testkit.scripted_engine import steps


@pytest.mark.parametrize("name", NAMES)
async def test_agent_reads_edits_runs_and_ends(
    name: str, tmp_path: Path, shares: dict[str, list[tuple[int, int]]]
) -> None:
    turns = turns_of(name, tmp_path / "work")
    async with agent_session(name, tmp_path, steps(TASK, turns)) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert DONE in ended.output
        assert (tmp_path / "work/calc.py").read_text() == "def add(a, b):\n    return a + b\n"
        prompts = session.conversation
        assert [prompt.turns for prompt in prompts] == list(range(len(turns)))
        assert "passed" in prompts[-1].last
        # Each prompt begins with the whole one before it and its answer.
        for before, after in itertools.pairwise(prompts):
            assert after.found >= len(before.ids) + len(before.answer)
        shares[name] = [(prompt.found, len(prompt.ids)) for prompt in prompts[1:]]
