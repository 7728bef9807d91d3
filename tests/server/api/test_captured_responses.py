"""Requests of real clients of the Responses API, replayed: their status, and the prompts they become."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from serval.chat.tokenizer import load_tokenizer
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.repository import ROOT
from serval_testkit.stand_in_engine import StandInEngine

CAPTURES = ROOT / "tests/captures"
CLIENTS = ("codex", "langchain-responses", "openai-agents-previous-id", "openai-agents-responses")
# The conversation of each prompt, from the first message on.
PROMPTS: dict[str, str] = json.loads((CAPTURES / "responses_prompts.json").read_text())
DECLARED = "</longcat_tool_declare>"


def captures() -> Iterator[tuple[str, dict[str, Any]]]:
    for client in CLIENTS:
        for path in sorted((CAPTURES / client).glob("*.json")):
            yield f"{client}/{path.stem}", json.loads(path.read_text())


CAPTURED = dict(captures())
# The client continues a response that another server answered.
UNKNOWN = "openai-agents-previous-id/turn1"


async def replayed(gateway: RunningGateway, name: str) -> tuple[int, Any]:
    body = {**CAPTURED[name]["body"], "model": MODEL}
    response = await gateway.post(body, path="/v1/responses")
    text = await response.text()
    return response.status, text if body.get("stream") else json.loads(text)


def big_engine() -> StandInEngine:
    return StandInEngine(model_path=str(DEMO_CHECKPOINT), context_length=65536, max_req_input_len=65000)


async def test_captured_requests_are_answered_and_become_the_same_prompts() -> None:
    tokenizer = load_tokenizer(DEMO_CHECKPOINT)[1]
    found = {}
    async with running_gateway(engine=big_engine()) as gateway:
        for name in CAPTURED:
            status, answer = await replayed(gateway, name)
            if name == UNKNOWN:
                assert (status, answer["error"]["code"]) == (400, "previous_response_not_found")
                continue
            assert status == 200, (name, answer)
            ids = gateway.engine.requests[-1]["input_ids"]
            declaration, _, conversation = tokenizer.decode(ids, skip_special_tokens=False).rpartition(
                DECLARED
            )
            declared = [
                tool["name"] for tool in CAPTURED[name]["body"]["tools"] if tool["type"] == "function"
            ]
            assert [f"### Tool name: {tool}\n" in declaration for tool in declared] == [True] * len(declared)
            assert "web_search" not in declaration
            found[name] = conversation
    assert found == PROMPTS


async def test_prompts_of_codex_begin_with_those_of_the_turns_before() -> None:
    async with running_gateway(engine=big_engine()) as gateway:
        for turn in range(4):
            assert (await replayed(gateway, f"codex/turn{turn}"))[0] == 200
        prompts = [request["input_ids"] for request in gateway.engine.requests]
    for earlier, later in pairwise(prompts):
        assert later[: len(earlier)] == earlier


@pytest.mark.parametrize("name", ["codex/namespace_call_back", "codex/turn1"])
async def test_captured_answers_call_tools_of_namespaces_by_both_names(name: str) -> None:
    async with running_gateway(engine=big_engine()) as gateway:
        gateway.engine.will_say("<longcat_tool_call>multi_agent_v1.close_agent\n</longcat_tool_call>\n")
        status, text = await replayed(gateway, name)
    assert status == 200
    assert '"name":"close_agent","namespace":"multi_agent_v1"' in text


def test_captures_are_complete() -> None:
    assert {Path(name).parent.name for name in CAPTURED} == set(CLIENTS)
