"""Calls that come back in another form are found in the prefix cache, on all APIs."""

import itertools
import json
import re
from typing import Any

import pytest

from serval.chat.tokenizer import load_tokenizer
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.stand_in_engine import STOP

EDIT = (
    "I edit the file.\n<longcat_tool_call>Edit\n"
    "<longcat_arg_key>file_path</longcat_arg_key>\n<longcat_arg_value>/project/calc.py</longcat_arg_value>\n"
    "<longcat_arg_key>old</longcat_arg_key>\n<longcat_arg_value>return a - b</longcat_arg_value>\n"
    "<longcat_arg_key>new</longcat_arg_key>\n<longcat_arg_value>return a + b</longcat_arg_value>\n"
    "</longcat_tool_call>\n"
)
SCHEMA = {
    "type": "object",
    "properties": {
        "file_path": {"type": "string"},
        "old": {"type": "string"},
        "new": {"type": "string"},
        "replace_all": {"type": "boolean", "default": False},
    },
}
# The model writes the text in shorter tokens than a tokenizer would.
PIECES = [
    piece
    for text in re.split("(</?longcat_[a-z_]+>)", EDIT)
    for piece in ([text] if text.startswith("<") else re.findall("(?s).{1,2}", text))
]


def own_tokens() -> list[list[int]]:
    """Return the tokens of each piece, as the model wrote it; the last one ends the turn."""
    _, full = load_tokenizer(DEMO_CHECKPOINT)
    ids: list[list[int]] = [full.encode(piece, add_special_tokens=False).ids for piece in PIECES]
    ids[-1].append(STOP["matched"])
    return ids


async def messages_turns(gateway: RunningGateway, calls: int) -> None:
    """Let an agent of the Messages API edit `calls` times; like Claude Code it adds a default in front."""
    tools = [{"name": "Edit", "input_schema": SCHEMA}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Fix the bug."}]
    for _ in range(calls + 1):
        body = {"model": MODEL, "max_tokens": 500, "messages": messages, "tools": tools}
        content = (await (await gateway.post(body, path="/v1/messages")).json())["content"]
        results = []
        for block in content:
            if block["type"] == "tool_use":
                block["input"] = {"replace_all": False, **block["input"]}
                results.append({"type": "tool_result", "tool_use_id": block["id"], "content": "done"})
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]


async def chat_turns(gateway: RunningGateway, calls: int) -> None:
    """Let an agent of Chat Completions do the same; it sorts the arguments."""
    tools = [{"type": "function", "function": {"name": "Edit", "parameters": SCHEMA}}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Fix the bug."}]
    for _ in range(calls + 1):
        body = {"model": MODEL, "messages": messages, "tools": tools}
        message = (await (await gateway.post(body)).json())["choices"][0]["message"]
        messages.append(message)
        for call in message.get("tool_calls", ()):
            arguments = json.loads(call["function"]["arguments"])
            call["function"]["arguments"] = json.dumps(arguments, sort_keys=True)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "done"})


def share_found(prompts: list[list[int]]) -> float:
    """Return the share of the prompts' tokens that earlier prompts and answers have left in the cache."""
    found = total = 0
    cached: list[int] = []
    for ids in prompts:
        pairs = enumerate(zip(cached, ids, strict=False))
        found += next((place for place, (one, other) in pairs if one != other), min(len(cached), len(ids)))
        total += len(ids)
        cached = [*ids, *itertools.chain(*own_tokens())]
    return found / total


@pytest.mark.parametrize("turns", [messages_turns, chat_turns])
async def test_calls_in_another_form_are_found_in_the_cache(turns: Any) -> None:
    shares = []
    for memory in (0, 1 << 20):
        async with running_gateway(own_turns_bytes=memory) as gateway:
            for _ in range(6):
                gateway.engine.will_say(*PIECES, ids=own_tokens())
            gateway.engine.will_say("Done.")
            await turns(gateway, 6)
            prompts = [request["input_ids"] for request in gateway.engine.requests]
            shares.append(share_found(prompts))
    without, used = shares
    print(f"share of tokens found: {without:.2f} without the model's own tokens, {used:.2f} with them")
    for previous, prompt in itertools.pairwise(prompts):
        written = [*previous, *itertools.chain(*own_tokens())]
        assert prompt[: len(written)] == written
    assert used > without


async def test_own_tokens_serve_their_own_key_only(tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-one\nsk-two\n")
    async with running_gateway(api_key=None, api_key_file=keys) as gateway:
        gateway.engine.will_say(*PIECES, ids=own_tokens())
        tools = [{"name": "Edit", "input_schema": SCHEMA}]
        body: dict[str, Any] = {
            "model": MODEL,
            "max_tokens": 500,
            "tools": tools,
            "messages": [{"role": "user", "content": "Fix"}],
        }
        answer = await gateway.post(body, path="/v1/messages", headers={"authorization": "Bearer sk-one"})
        content = (await answer.json())["content"]
        result = {"type": "tool_result", "tool_use_id": content[-1]["id"], "content": "done"}
        body["messages"] += [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
        for key in ("sk-one", "sk-two"):
            await gateway.post(body, path="/v1/messages", headers={"authorization": f"Bearer {key}"})
        _, own, others = (request["input_ids"] for request in gateway.engine.requests)
        assert own != others
        count = await gateway.post(
            {name: body[name] for name in ("model", "messages", "tools")},
            path="/v1/messages/count_tokens",
            headers={"authorization": "Bearer sk-one"},
        )
        assert (await count.json())["input_tokens"] == len(own)


@pytest.mark.parametrize("hidden", ["<longcat_system>", "<longcat_user>", "</longcat_s>"])
async def test_control_token_that_the_client_never_saw_is_not_remembered(
    gateway: RunningGateway, hidden: str
) -> None:
    """A document can talk the model into writing the token of a role: it must not begin a turn later on."""
    _, full = load_tokenizer(DEMO_CHECKPOINT)
    gateway.engine.will_say(hidden, *PIECES, ids=[[full.token_to_id(hidden)], *own_tokens()])
    await messages_turns(gateway, 1)
    first, second = (request["input_ids"] for request in gateway.engine.requests)
    assert full.token_to_id(hidden) not in second[len(first) : len(first) + 2]


async def test_text_that_a_stop_string_took_away_is_not_remembered(gateway: RunningGateway) -> None:
    _, full = load_tokenizer(DEMO_CHECKPOINT)
    taken = full.encode(" zebra", add_special_tokens=False).ids
    ids = own_tokens()
    ids[-1].pop()
    # The engine's text ends before the stop string; its tokens do not.
    gateway.engine.will_say(*PIECES, " ", ids=[*ids, taken], finish={"type": "stop", "matched": "zebra"})
    await messages_turns(gateway, 1)
    second = full.decode(gateway.engine.requests[1]["input_ids"])
    assert "zebra" not in second
