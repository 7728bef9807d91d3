"""Parts of a prompt: the same in every turn of a conversation."""

from typing import Any

import pytest

from serval.chat import load_chat
from serval.chat.prompt_parts import PromptParts, parts_of
from serval.chat.render import ChatRenderer
from serval_testkit.gateway import DEMO_CHECKPOINT

TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
}
SYSTEM = {"role": "system", "content": "Be brief. Hi and hello."}
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
    {"role": "user", "content": "Hi"},
]


@pytest.fixture(scope="module")
def chat() -> ChatRenderer:
    return load_chat(DEMO_CHECKPOINT)


def parts(
    chat: ChatRenderer, messages: list[dict[str, Any]], **options: Any
) -> tuple[PromptParts, list[int]]:
    prompt = chat.render(messages, **options)
    assert prompt.parts is not None
    return prompt.parts, prompt.input_ids


@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("system", [[], [SYSTEM]])
def test_parts_of_later_turns_are_those_of_the_first(
    chat: ChatRenderer, system: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> None:
    first, first_ids = parts(chat, [*system, *TURNS[:1]], tools=tools)
    assert first.earlier == 0
    assert first.first_turn == len(first_ids) - 1  # the model's turn is opened after it
    assert bool(first.shared) == bool(system or tools)
    earlier = len(first_ids)
    for length in (3, 5):
        later, ids = parts(chat, [*system, *TURNS[:length]], tools=tools)
        assert (later.shared, later.first_turn) == (first.shared, first.first_turn)
        assert later.earlier == earlier
        earlier = len(ids)


def test_parts_share_the_beginning_of_other_conversations(chat: ChatRenderer) -> None:
    one, ids = parts(chat, [SYSTEM, {"role": "user", "content": "One question"}], tools=[TOOL])
    other, other_ids = parts(chat, [SYSTEM, {"role": "user", "content": "Another"}], tools=[TOOL])
    assert one.shared == other.shared
    assert ids[: one.shared] == other_ids[: one.shared]
    assert chat.tokenizer.decode(ids[: one.shared]).endswith(SYSTEM["content"])


def test_parts_of_a_tool_loop_end_before_the_last_call(chat: ChatRenderer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    loop = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
    ]
    first, ids = parts(chat, loop[:1], tools=[TOOL])
    later, _ = parts(chat, loop, tools=[TOOL])
    assert later == PromptParts(first.shared, first.first_turn, earlier=len(ids))


def test_parts_are_unknown_without_control_tokens_around_the_message() -> None:
    assert parts_of([{"role": "user", "content": "Hi"}], ["USER: Hi ASSISTANT:"], []) is None
    assert parts_of([{"role": "system", "content": "Hi"}], ["Hi"], []) is None
