"""Prompts of Messages requests: their text stays text, and each turn's prompt begins with the last one's."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serval.chat import ChatRenderer, load_chat
from serval.wire.chat_request import Tool
from serval.wire.messages.decode import Reading, decode_messages_request
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.model_folder import CONTROL_TOKENS, write_model_folder

# Includes pieces of markers, some of which meet in the rendered text.
hostile = st.lists(
    st.one_of(
        st.sampled_from([*CONTROL_TOKENS, "<longcat_", "user>", "</longcat_s", "<", ">", " ", "\n"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    ),
    max_size=5,
).map("".join)
texts = st.one_of(
    hostile, st.lists(st.builds(lambda text: {"type": "text", "text": text}, hostile), max_size=3)
)
values = st.one_of(
    hostile, st.integers(), st.lists(hostile, max_size=2), st.dictionaries(hostile, hostile, max_size=2)
)
NAMES = ("Read", "Fetch", "Late")


@st.composite
def exchanges(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return a turn of the assistant with calls, and their results."""
    calls = [f"id{number}" for number in range(draw(st.integers(0, 2)))]
    blocks: list[dict[str, Any]] = [{"type": "text", "text": draw(hostile)}]
    results: list[dict[str, Any]] = []
    for call in calls:
        arguments = draw(st.dictionaries(hostile, values, max_size=2))
        blocks.append({"type": "tool_use", "id": call, "name": draw(hostile), "input": arguments})
        content = draw(st.one_of(texts, st.just([{"type": "tool_reference", "tool_name": "Late"}])))
        results.append({"type": "tool_result", "tool_use_id": call, "content": content})
    after: list[dict[str, Any]] = [{"type": "text", "text": draw(hostile)}]
    return [{"role": "assistant", "content": blocks}, {"role": "user", "content": [*results, *after]}]


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    rest = draw(st.lists(exchanges(), max_size=2))
    tools = [
        {
            "name": name,
            "description": draw(hostile),
            "input_schema": {"type": "object", "properties": {draw(hostile): {"description": draw(hostile)}}},
            "defer_loading": name == "Late",
        }
        for name in NAMES
    ]
    return {
        "model": "m",
        "max_tokens": 1,
        "system": draw(texts),
        "tools": tools,
        "messages": [
            {"role": "user", "content": draw(texts)},
            {"role": "system", "content": draw(texts)},
            *(message for exchange in rest for message in exchange),
        ],
    }


def prompt(renderer: ChatRenderer, body: dict[str, Any]) -> list[int]:
    def declaration(tool: Tool) -> str:
        return renderer.declarations.text_of(msgspec.to_builtins(tool))

    reading = Reading(
        strict_fields=True,
        non_text_parts="refuse_new",
        render_billing_block=False,
        declaration_of=declaration,
    )
    request = decode_messages_request(json.dumps(body).encode(), reading).request
    messages, tools = msgspec.to_builtins(request.messages), msgspec.to_builtins(request.tools or [])
    return renderer.render(messages, tools=tools).input_ids


@pytest.fixture(scope="module")
def renderers(tmp_path_factory: pytest.TempPathFactory) -> list[ChatRenderer]:
    return [
        load_chat(write_model_folder(tmp_path_factory.mktemp("model"), special=special))
        for special in (True, False)
    ]


def harmless(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("<", "‹").replace(">", "›")
    if isinstance(value, dict):
        return {harmless(key): harmless(item) for key, item in value.items()}
    return [harmless(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=150)
@given(body=bodies())
def test_no_text_of_a_request_becomes_a_control_token(
    renderers: list[ChatRenderer], body: dict[str, Any]
) -> None:
    for renderer in renderers:
        controls = {token.id for token in renderer.tokenizer.control_tokens}
        found = [token for token in prompt(renderer, body) if token in controls]
        expected = [token for token in prompt(renderer, harmless(body)) if token in controls]
        assert found == expected


@pytest.fixture(scope="module")
def demo() -> ChatRenderer:
    return load_chat(DEMO_CHECKPOINT)


CACHED = {"cache_control": {"type": "ephemeral"}}
BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch={};"}


def as_sent(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as Claude Code sends them: the newest block is marked, and older ones no longer are."""
    sent = json.loads(json.dumps(messages))
    newest = sent[-1]
    if isinstance(newest["content"], str):
        newest["content"] = [{"type": "text", "text": newest["content"]}]
    newest["content"][-1] |= CACHED
    return sent


def test_prompts_of_consecutive_turns_are_prefixes(demo: ChatRenderer) -> None:
    """Let the cache's mark move, a string become a block, a tool be loaded, the billing line change."""
    system = [
        BILLING,
        {"type": "text", "text": "You are an agent.", **CACHED},
        {"type": "text", "text": "Rules."},
    ]
    tools = [
        {"name": "Bash", "description": "Runs.", "input_schema": {"type": "object"}},
        {"name": "ToolSearch", "description": "Finds tools.", "input_schema": {"type": "object"}},
    ]
    loaded = {"name": "Fetch", "description": "Fetches.", "input_schema": {}, "defer_loading": True}
    history: list[dict[str, Any]] = [
        {"role": "user", "content": "Fix the bug."},
        {"role": "system", "content": "Tokens left: 1000"},
    ]

    def call(name: str, number: int, result: Any) -> list[dict[str, Any]]:
        use = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {"q": number}}
        answer = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": result}
        return [{"role": "assistant", "content": [use]}, {"role": "user", "content": [answer]}]

    steps = [
        call("ToolSearch", 0, [{"type": "tool_reference", "tool_name": "Fetch"}]),
        call("Fetch", 1, "a page"),
        [*call("Bash", 2, "Exit code 3"), {"role": "system", "content": "Tokens left: 900"}],
    ]
    previous: list[int] = []
    for turn in range(len(steps) + 1):
        # Claude Code names a deferred tool from when it is loaded, inside of the list.
        declared = [tools[0], loaded, tools[1]] if turn else tools
        body = {
            "model": "m",
            "max_tokens": 1,
            "system": [BILLING | {"text": f"{BILLING['text']}{turn}"}, *system[1:]],
            "tools": declared,
            "messages": as_sent(history),
        }
        ids = prompt(demo, body)
        assert ids[: len(previous)] == previous
        previous = ids
        if turn < len(steps):
            history += steps[turn]
