"""Comparing the items that a client sends back with those that a turn was sealed with."""

from typing import Any

import msgspec
import pytest

from serval.wire.responses.items import decode_items
from serval.wire.responses.sealed_history import in_place_of_history, is_of_the_model, items_digest

MESSAGE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
ANSWER = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'}
PATCH = {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}
SHELL = {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"], "env": {}}}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "done"}
THOUGHT = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}]}
ALL: list[dict[str, Any]] = [MESSAGE, ANSWER, CALL, PATCH, SHELL, OUTPUT, THOUGHT]


def digest(*items: dict[str, Any], before: bytes = b"head") -> bytes:
    placed = decode_items([msgspec.Raw(msgspec.json.encode(item)) for item in items], "input")
    return items_digest(before, (each.item for each in placed))


@pytest.mark.parametrize("item", ALL)
def test_digest_leaves_out_what_clients_leave_out(item: dict[str, Any]) -> None:
    whole = {"id": "x", "status": "completed", "of_the_future": 1, **item}
    assert digest(whole) == digest(item)
    assert digest(dict(reversed(item.items()))) == digest(item)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({**MESSAGE, "content": "Hi"}, MESSAGE),
        ({**SHELL, "action": {"env": {}, "command": ["ls"], "type": "exec"}}, SHELL),
    ],
)
def test_digest_is_that_of_the_same_item_in_another_form(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MESSAGE, ANSWER),
        (MESSAGE, {**MESSAGE, "role": "system"}),
        (MESSAGE, {**MESSAGE, "content": "Hi "}),
        (MESSAGE, {**MESSAGE, "content": MESSAGE["content"] * 2}),  # type: ignore[operator]
        (MESSAGE, {**MESSAGE, "content": [{"type": "input_image"}]}),
        ({**MESSAGE, "content": [{"type": "input_image"}]}, {**MESSAGE, "content": [{"type": "input_file"}]}),
        ({**ANSWER, "content": [{"type": "refusal", "refusal": "Hi"}]}, ANSWER),
        (CALL, {**CALL, "arguments": '{"a":1}'}),
        (CALL, {**CALL, "namespace": "n"}),
        (CALL, {**CALL, "call_id": "d"}),
        (PATCH, {**PATCH, "input": "y"}),
        (SHELL, {**SHELL, "action": {"type": "exec", "command": ["rm"]}}),
        (OUTPUT, {**OUTPUT, "output": "failed"}),
        (THOUGHT, {**THOUGHT, "content": [{"type": "reasoning_text", "text": "Oh"}]}),
    ],
)
def test_digest_differs_for_items_with_another_prompt(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) != digest(other)


def test_digest_goes_on_and_depends_on_order_and_beginning() -> None:
    assert digest(*ALL) == digest(*ALL[2:], before=digest(*ALL[:2]))
    assert digest(MESSAGE, OUTPUT) != digest(OUTPUT, MESSAGE)
    assert digest(MESSAGE, before=b"other") != digest(MESSAGE)


def test_digest_passes_over_reasoning_without_text() -> None:
    assert digest({"type": "reasoning", "summary": [], "encrypted_content": "x"}, MESSAGE) == digest(MESSAGE)


def test_items_of_the_model_are_its_messages_and_calls() -> None:
    placed = decode_items([msgspec.Raw(msgspec.json.encode(item)) for item in ALL], "input")
    assert [is_of_the_model(each.item) for each in placed] == [False, True, True, True, True, False, False]


def test_items_in_place_of_a_history_hold_the_calls_in_order() -> None:
    made = in_place_of_history(["a", "b"], "input[3]")
    assert [getattr(placed.item, "call_id", None) for placed in made] == [None, "a", "b"]
    assert {placed.path for placed in made} == {"input[3]"}
    assert len(in_place_of_history([], "input[0]")) == 2
