"""Checking conversations that are rendered and not answered."""

from typing import Any

import msgspec
import pytest

from serval.errors import InvalidRequestError
from serval.wire.chat_decode import conversation_request, decode_chat_request

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "3"}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("messages", [[USER], [USER, CALLED], [USER, CALLED, RESULT]])
def test_conversation_request_may_end_anywhere(messages: list[dict[str, Any]]) -> None:
    request = conversation_request({"messages": messages, "tools": [TOOL], "ignored": 1})
    assert [message.role for message in request.messages] == [message["role"] for message in messages]


def test_conversation_request_turns_functions_of_the_history_into_tools() -> None:
    called = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
    request = conversation_request(
        {"messages": [USER, called, {"role": "function", "name": "f", "content": ""}]}
    )
    assert [message.role for message in request.messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER, CALLED, USER]}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [RESULT]}, "messages[0].tool_call_id"),
        ({"messages": [USER], "tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"messages": [USER], "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_conversation_request_names_field_at_fault(given: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        conversation_request(given)
    assert caught.value.param == param


def test_decode_takes_the_tool_choice_any_for_required() -> None:
    body = msgspec.json.encode({"model": "m", "messages": [USER], "tools": [TOOL], "tool_choice": "any"})
    request = decode_chat_request(body, max_choices=1, strict=True, non_text_parts="refuse")
    assert request.tool_choice == "required"
