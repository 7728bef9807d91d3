"""Naming the text of a body at a place of the prompt that was made of it."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import msgspec
import pytest

from serval.api.prompt import declared_tools
from serval.chat.prompt_history import shared_length
from serval.chat.render import ChatRenderer, load_chat
from serval.wire.chat_decode import conversation_request
from serval.wire.prompt_texts import prompt_texts, text_at
from serval_testkit.gateway import DEMO_CHECKPOINT


def text(value: str, kind: str = "text") -> dict[str, str]:
    return {"type": kind, "text": value}


PARAMETERS = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": 'Absolute, "quoted".\nNot ~.'},
        "replace_all": {"type": "boolean", "default": False},
    },
    "required": ["path"],
}
TOOLS = [
    {"type": "function", "function": {"name": "f", "description": "Edit.", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "edit", "description": "user", "parameters": PARAMETERS}},
]
CALLS = [
    {"id": "f", "type": "function", "function": {"name": "f", "arguments": '{"path": "/a\\nb", "n": 5}'}},
    {"id": "user", "type": "function", "function": {"name": "edit", "arguments": "cut {"}},
]
CHAT: dict[str, Any] = {
    # Without shared parts, so that one can be changed.
    "tools": deepcopy(TOOLS[:1]) + deepcopy(TOOLS[1:]),
    "messages": [
        {"role": "system", "content": "You are an assistant of the user."},
        {"role": "user", "name": "user", "content": [text("Hi"), text("user")]},
        {"role": "assistant", "content": "I edit.", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "f", "content": "done\n"},
        {"role": "tool", "tool_call_id": "user", "content": [text("failed")]},
        {"role": "user", "content": "Hi"},
    ],
}


@pytest.fixture(scope="module")
def renderer() -> ChatRenderer:
    return load_chat(DEMO_CHECKPOINT)


def rendered(renderer: ChatRenderer, body: dict[str, Any]) -> str:
    request = conversation_request(body)
    return renderer.render(msgspec.to_builtins(request.messages), tools=declared_tools(request)).text


def strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield the places of all strings, as keys and indices."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from strings(below, (*path, key))


def written(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


FREE = ("content", "text", "description")
CHANGED = [(path, text) for path, text in strings(CHAT) if path[-1] in FREE]


@pytest.mark.parametrize(("path", "before"), CHANGED, ids=[written(path) for path, _ in CHANGED])
def test_text_at_names_the_text_that_was_changed(
    renderer: ChatRenderer, path: tuple[Any, ...], before: str
) -> None:
    for character in range(len(before) + 1):
        body = deepcopy(CHAT)
        holder: Any = body
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = f"{before[:character]}⟂{before[character:]}"
        prompt = rendered(renderer, body)
        place = shared_length(prompt, rendered(renderer, CHAT))
        assert text_at(prompt, place, prompt_texts(body)) == (written(path), character)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ('{"path": "/a\\nc", "n": 5}', "messages[2].tool_calls[0].function.arguments.path"),
        ('{"path": "/a\\nb", "n": 6}', "messages[2].tool_calls[0].function.arguments.n"),
        ('{"all": false, "path": "/a\\nb", "n": 5}', "messages[2].tool_calls[0].function.arguments.all"),
        ('{"n": 5, "path": "/a\\nb"}', "messages[2].tool_calls[0].function.arguments.n"),
    ],
)
def test_text_at_names_an_argument_that_was_changed(
    renderer: ChatRenderer, arguments: str, path: str
) -> None:
    body = deepcopy(CHAT)
    body["messages"][2]["tool_calls"][0]["function"]["arguments"] = arguments
    prompt = rendered(renderer, body)
    found = text_at(prompt, shared_length(prompt, rendered(renderer, CHAT)), prompt_texts(body))
    assert found is not None
    assert found[0] == path


def test_text_at_names_the_text_behind_a_place_between_texts(renderer: ChatRenderer) -> None:
    body = deepcopy(CHAT)
    body["messages"].insert(1, {"role": "assistant", "content": "Hello"})
    prompt = rendered(renderer, body)
    found = text_at(prompt, shared_length(prompt, rendered(renderer, CHAT)), prompt_texts(body))
    assert found == ("messages[1].content", 0)


def test_text_at_finds_nothing_behind_the_last_text(renderer: ChatRenderer) -> None:
    prompt = rendered(renderer, CHAT)
    assert text_at(prompt, len(prompt) - 1, prompt_texts(CHAT)) is None


def test_prompt_texts_reads_the_forms_of_all_apis() -> None:
    responses = {
        "instructions": "Be brief.",
        "tools": [
            {
                "type": "namespace",
                "name": "n",
                "tools": [{"type": "function", "name": "g", "parameters": {}}],
            },
            {"type": "custom", "name": "apply_patch", "description": "Patch."},
        ],
        "input": [
            {"type": "message", "role": "user", "content": [text("Hi", "input_text")]},
            {"type": "function_call", "name": "g", "arguments": '{"a b": [1]}', "call_id": "c"},
            {"type": "function_call_output", "call_id": "c", "output": [text("7", "input_text")]},
            {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin", "call_id": "d"},
            {"type": "custom_tool_call_output", "call_id": "d", "output": "done"},
        ],
    }
    assert [(path, text) for path, text, _ in prompt_texts(responses)] == [
        ("tools[0].tools[0].name", "g"),
        ("tools[1].name", "apply_patch"),
        ("tools[1].description", "Patch."),
        ("instructions", "Be brief."),
        ("input[0].content[0].text", "Hi"),
        ("input[1].name", "g"),
        ('input[1].arguments["a b"]', "a b"),
        ('input[1].arguments["a b"][0]', "1"),
        ("input[2].output[0].text", "7"),
        ("input[3].name", "apply_patch"),
        ("input[3].input", "*** Begin"),
        ("input[4].output", "done"),
    ]
    messages = {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "tools": [
            {"name": "Edit", "input_schema": {"type": "object"}},
            {"name": "Later", "input_schema": {}, "defer_loading": True},
        ],
        "messages": [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t", "name": "Edit", "input": {"replace_all": False}}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "ok"}]}
                ],
            },
        ],
    }
    assert [(path, text) for path, text, _ in prompt_texts(messages)] == [
        ("tools[0].name", "Edit"),
        ("tools[0].input_schema.type", "type"),
        ("tools[0].input_schema.type", "object"),
        ("system[0].text", "Be brief."),
        ("messages[0].content", "Hi"),
        ("messages[1].content[0].name", "Edit"),
        ("messages[1].content[0].input.replace_all", "replace_all"),
        ("messages[1].content[0].input.replace_all", "false"),
        ("messages[2].content[0].content[0].text", "ok"),
    ]


@pytest.mark.parametrize(
    "body", [{}, {"messages": 5}, {"tools": [None, 3]}, {"messages": [{"content": {"a": 1}}]}]
)
def test_prompt_texts_passes_over_what_is_not_of_the_form(body: dict[str, Any]) -> None:
    assert list(prompt_texts(body)) == []
