"""Coding agents on the real engine with the demo model, which cannot code: they ask, it answers, in each API.

Their own instructions would not fit into its context, so they get short ones, and no tools that run commands.
`tests/agents` gives them work, with an engine that follows a script.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from serval.agents.discovery import find_target
from serval_testkit.agents import configured_agent

pytestmark = pytest.mark.engine

QUESTION = "What is Serval?"
ANSWER = "Serval is an inference server for LongCat-Flash-Lite."
INSTRUCTIONS = "You are a helpful assistant."
PATHS = {"pi": "/v1/chat/completions", "claude-code": "/v1/messages", "codex": "/v1/responses"}


def options(agent: str, folder: Path) -> list[str]:
    """Options for short instructions and harmless tools."""
    if agent == "codex":
        file = folder / "instructions.md"
        file.write_text(INSTRUCTIONS)
        features = ("multi_agent", "goals", "shell_tool")
        disabled = [word for feature in features for word in ("--disable", feature)]
        return ["-c", f'model_instructions_file="{file}"', *disabled]
    tools = ["--no-tools"] if agent == "pi" else ["--tools", "", "--bare"]
    return [*tools, "--system-prompt", INSTRUCTIONS]


async def posts(lines: list[str], first: int) -> set[tuple[str, int]]:
    """Return path and status of the requests in the gateway's log from line `first` on, once there is one."""
    async with asyncio.timeout(60):
        while True:
            logged = [line.partition("{") for line in lines[first:] if '"serval.requests"' in line]
            requests = [json.loads(brace + rest) for _, brace, rest in logged]
            if found := {(each["route"], each["status"]) for each in requests if each["method"] == "POST"}:
                return found
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", PATHS)
async def test_agent_gets_an_answer_of_the_model(server: Any, tmp_path: Path, name: str) -> None:
    target = await asyncio.to_thread(find_target, server.base_url, server.api_key)
    assert target.context_window == 8192
    agent = configured_agent(name, tmp_path, target, {}, key=server.api_key)
    seen = len(server.program.lines)
    ended = await agent.works(QUESTION, *options(name, tmp_path))
    assert ended.code == 0, ended.errors
    # Codex adds instructions of which the demo model has never seen the like.
    assert ended.output.strip()
    assert name == "codex" or ended.output.startswith(ANSWER)
    assert await posts(server.program.lines, seen) == {(PATHS[name], 200)}
