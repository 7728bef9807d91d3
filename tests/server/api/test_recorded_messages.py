"""Recorded requests of Claude Code and langchain: each is answered, and its prompt has the expected turns."""

import itertools
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from serval.chat.tokenizer import ControlSafeTokenizer, load_tokenizer
from serval.clients.recordings import Recording, recordings_of
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.stand_in_engine import StandInEngine

CLIENTS = ("claude-code", "langchain-anthropic")
RECORDED = {f"{client}/{one.name}": one for client in CLIENTS for one in recordings_of(client)}
MARKER = re.compile(r"</?longcat_(?:s|system|user|assistant|tool_declare|tool_call|tool_response)>")
FRONT = "declare /declare system user system"
CALL = "assistant call /call /s user response /response"
TWO_CALLS = "assistant call /call call /call /s user response /response response /response"
TURNS = {
    "claude-code/count_tokens": "user",
    "claude-code/count_tokens_tools": "declare /declare user",
    "claude-code/turn0": FRONT,
    "claude-code/turn0_without_experimental_betas": FRONT,
    "claude-code/turn1": f"{FRONT} {CALL}",
    "claude-code/turn2": f"{FRONT} {CALL} {CALL}",
    "claude-code/turn3": f"{FRONT} {CALL} {CALL} {TWO_CALLS}",
    "claude-code/thinking_back": f"{FRONT} {CALL} {CALL} {TWO_CALLS}",
    "claude-code/image_in_tool_result": f"{FRONT} {CALL}",
    "claude-code/tool_result_is_error": f"{FRONT} {CALL}",
    "claude-code/tool_reference_and_deferred_tools": f"{FRONT} {CALL}",
    "langchain-anthropic/turn0": "declare /declare user",
    "langchain-anthropic/turn1": f"declare /declare user {CALL}",
}


def turns_of(text: str) -> str:
    """Return the markers of a prompt, without those of the example call in the declaration."""
    text = re.sub(
        r"(?s)<longcat_tool_declare>.*?</longcat_tool_declare>",
        "<longcat_tool_declare></longcat_tool_declare>",
        text,
    )
    names = (
        marker.strip("<>").replace("longcat_", "").removeprefix("tool_").replace("/tool_", "/")
        for marker in MARKER.findall(text)
    )
    return " ".join(names)


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT), context_length=131_072, max_req_input_len=131_000)
    async with running_gateway(engine=engine) as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer() -> ControlSafeTokenizer:
    return load_tokenizer(DEMO_CHECKPOINT)[0]


def body_of(recording: Recording) -> dict[str, Any]:
    return {**recording.body, "model": MODEL}


def test_every_recording_has_its_turns() -> None:
    assert set(TURNS) == set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
async def test_recorded_request_is_answered_and_has_its_turns(
    gateway: RunningGateway, tokenizer: ControlSafeTokenizer, name: str
) -> None:
    recording = RECORDED[name]
    response = await gateway.post(body_of(recording), path=recording.path)
    assert response.status == 200, await response.text()
    if recording.api == "count_tokens":
        assert (await response.json())["input_tokens"] > 3
        await gateway.post({**body_of(recording), "max_tokens": 1}, path="/v1/messages?beta=true")
    (request,) = gateway.engine.requests
    text = tokenizer.decode(request["input_ids"])
    assert turns_of(text) == f"{TURNS[name]} assistant"
    assert "x-anthropic-billing-header" not in text
    assert "c2ln" not in text  # a signature
    if recording.api == "count_tokens":
        assert (await response.json())["input_tokens"] == len(request["input_ids"])


async def test_recorded_turns_of_claude_code_begin_with_the_ones_before(gateway: RunningGateway) -> None:
    for number in range(4):
        await gateway.post(body_of(RECORDED[f"claude-code/turn{number}"]), path="/v1/messages?beta=true")
    prompts = [request["input_ids"] for request in gateway.engine.requests]
    for before, after in itertools.pairwise(prompts):
        assert after[: len(before)] == before
