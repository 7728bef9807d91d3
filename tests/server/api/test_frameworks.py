"""Agent frameworks (tests/e2e/clients) at work on one task, with a scripted engine."""

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from serval_testkit.clients import MODEL, command_of
from serval_testkit.gateway import API_KEY, RunningGateway, running_gateway
from serval_testkit.scripted_engine import ScriptedEngine, calls, steps

TASK = "What is the weather in Paris for the next 3 days?"
RESULT = "Paris: sunny for 3 days"
DONE = "It stays sunny."
TURNS = ["I look it up.\n" + calls("get_weather", city="Paris", days="3"), DONE]
ON_BOTH_APIS = ["responses", "responses, streamed", "messages", "messages, streamed"]
HISTORY, PREVIOUS = "whole history", "previous response"


async def told_by(program: str, gateway: RunningGateway) -> dict[str, Any]:
    command = await asyncio.to_thread(command_of, program)
    environment = {
        **os.environ,
        "SERVAL_API_KEY": API_KEY,
        "SERVAL_BASE_URL": f"{gateway.url}/v1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    told: dict[str, Any] = json.loads(output)
    return told


def assert_each_run_has_two_turns(scripted: ScriptedEngine, runs: int) -> None:
    """Check that each run asks twice, and that its second prompt continues the first and the call."""
    first, second = scripted.prompts[::2], scripted.prompts[1::2]
    assert len(first) == len(second) == runs
    for asked, continued in zip(first, second, strict=True):
        assert (asked.turns, continued.turns) == (0, 1)
        assert RESULT in continued.last
        turn = asked.ids + asked.answer
        assert continued.ids[: len(turn)] == turn


@pytest.mark.parametrize("program", ["langchain_task.py", "pydantic_ai_task.py", "litellm_task.py"])
async def test_framework_ends_its_task_on_responses_and_messages(program: str) -> None:
    scripted = ScriptedEngine(steps(TASK, TURNS))
    async with running_gateway(engine=scripted.engine, served_model_name=MODEL) as gateway:
        told = await told_by(program, gateway)
    assert told["answers"] == dict.fromkeys(ON_BOTH_APIS, DONE)
    assert_each_run_has_two_turns(scripted, runs=len(ON_BOTH_APIS))
    apis = [request["rid"].partition("_")[0] for request in scripted.engine.requests]
    assert apis == ["resp"] * 4 + ["msg"] * 4


async def test_openai_agents_continues_the_previous_response(tmp_path: Path) -> None:
    scripted = ScriptedEngine(steps(TASK, TURNS))
    database = str(tmp_path / "keys.db")
    async with running_gateway(
        engine=scripted.engine, served_model_name=MODEL, key_database=database
    ) as gateway:
        told = await told_by("openai_agents_task.py", gateway)
        runs = [HISTORY, f"{HISTORY}, streamed", PREVIOUS, f"{PREVIOUS}, streamed"]
        assert told["answers"] == dict.fromkeys(runs, DONE)
        for name, response_id in told["last_response_ids"].items():
            kept = await (await gateway.get(f"/v1/responses/{response_id}")).json()
            assert (kept["previous_response_id"] is not None) == name.startswith(PREVIOUS)
    assert_each_run_has_two_turns(scripted, runs=len(runs))
    # Instructions, which each request repeats, are not carried over a second time.
    assert len({prompt.text for prompt in scripted.prompts}) == 2
