"""`serval clients check` against this gateway: every client's recorded requests are answered as it needs."""

import asyncio
import json
import re

import pytest

from serval.cli import main
from serval_testkit.gateway import API_KEY, running_gateway
from serval_testkit.scripted_engine import Prompt, ScriptedEngine, calls, says
from serval_testkit.stand_in_engine import Answer


def call_of_the_first_tool(prompt: Prompt) -> Answer:
    """Answer with text, and a call where tools are declared."""
    tool = re.search(r"### Tool name: (\S+)\n", prompt.text)
    return says("I will look." + (calls(tool[1], path="a.py") if tool else ""))


async def test_all_clients_are_answered_as_they_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVAL_API_KEY", API_KEY)
    scripted = ScriptedEngine(call_of_the_first_tool)
    async with running_gateway(engine=scripted.engine) as gateway:
        code = await asyncio.to_thread(main, ["clients", "check", f"{gateway.url}/v1"])
        out = capsys.readouterr().out
        assert code == 0, out
        found = re.search(r"^(\d+) of (\d+) requests answered as their clients need$", out, re.MULTILINE)
        assert found is not None
        assert found[1] == found[2]
        assert int(found[2]) >= 68


async def test_one_client_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVAL_API_KEY", API_KEY)
    scripted = ScriptedEngine(lambda _: Answer(fault="http_error", status=500))
    async with running_gateway(engine=scripted.engine) as gateway:
        arguments = ["clients", "check", f"{gateway.url}/v1", "--client", "aider", "--json"]
        assert await asyncio.to_thread(main, arguments) == 1
        verdicts = json.loads(capsys.readouterr().out)
        assert [(each["client"], each["request"], each["api"]) for each in verdicts] == [
            ("aider", "first", "chat"),
            ("aider", "last", "chat"),
        ]
        assert all(
            "an error in the stream" in each["faults"][0] or "500" in each["faults"][0] for each in verdicts
        )


async def test_limit_of_tokens_replaces_the_recorded_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVAL_API_KEY", API_KEY)
    scripted = ScriptedEngine(lambda _: says("Yes."))
    async with running_gateway(engine=scripted.engine) as gateway:
        clients = [word for name in ("pi", "codex", "claude-code") for word in ("--client", name)]
        arguments = ["clients", "check", f"{gateway.url}/v1", *clients, "--max-tokens", "9"]
        assert await asyncio.to_thread(main, arguments) == 0, capsys.readouterr().out
        assert {prompt.sampling["max_new_tokens"] for prompt in scripted.prompts} == {9}
