"""Bodies with too many values are refused before they are decoded, and the error names the field."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from serval.errors import InvalidRequestError
from serval.wire.body_size import MAX_CONTAINERS, MAX_VALUES, check_body_size
from serval.wire.chat_decode import decode_chat_request
from serval.wire.completion_request import decode_completion_request

MESSAGE = {"role": "user", "content": "a"}
MANY: list[Any] = [[]] * (MAX_CONTAINERS + 1)


def decode_chat(body: bytes) -> Any:
    return decode_chat_request(body, max_choices=1, strict=False, non_text_parts="refuse")


def decode_completion(body: bytes) -> Any:
    return decode_completion_request(body, max_choices=1, max_batch=128, strict=False)


def refusal(decode: Callable[[bytes], Any], **fields: Any) -> InvalidRequestError:
    body = json.dumps({"model": "m", "messages": [MESSAGE], "prompt": "x", **fields})
    with pytest.raises(InvalidRequestError) as caught:
        decode(body.encode())
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": MANY}}}]}, "tools"),
        ({"functions": [{"name": "f", "parameters": {"x": MANY}}]}, "functions"),
        ({"tools": [{}] * (MAX_CONTAINERS + 1)}, "tools"),
        ({"messages": [MESSAGE] * (MAX_CONTAINERS + 1)}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 65_536}]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": MANY}]}, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": MANY}}}, "response_format"),
        ({"unknown": MANY}, None),
        ({"stop": ["a"] * (MAX_VALUES + 2)}, None),
    ],
    ids=[
        "brackets in a tool's schema",
        "brackets in a function's schema",
        "tools",
        "messages",
        "content parts",
        "tool calls",
        "response format",
        "unknown field",
        "stop strings",
    ],
)
def test_chat_with_too_many_values_is_refused_by_field(fields: dict[str, Any], param: str | None) -> None:
    error = refusal(decode_chat, **fields)
    assert (error.status, error.code, error.param) == (400, "too_many_values", param)
    assert "Send less" in error.message


@pytest.mark.parametrize("before", ["{}", '"', '\\"'])
def test_arguments_with_too_many_values_are_refused(before: str) -> None:
    """Tried: one call with all of them, two with half each, after arguments that end within a string."""
    half = json.dumps({"x": [[]] * (MAX_CONTAINERS // 2 + 1)})
    call = {"type": "function", "id": "c", "function": {"name": "f"}}
    for texts in ([before, half, half], [half + "," + half]):
        calls = [
            call | {"id": str(n), "function": {"name": "f", "arguments": t}} for n, t in enumerate(texts)
        ]
        results = [{"role": "tool", "tool_call_id": str(n), "content": ""} for n in range(len(texts))]
        called = {"role": "assistant", "tool_calls": calls}
        error = refusal(decode_chat, messages=[MESSAGE, called, *results])
        assert (error.code, error.param) == ("too_many_values", "messages")


@pytest.mark.parametrize("prompt", [MANY, [[1]] * (MAX_CONTAINERS + 1), [1] * (MAX_VALUES + 2)])
def test_completion_with_too_many_values_is_refused_by_field(prompt: Any) -> None:
    error = refusal(decode_completion, prompt=prompt)
    assert (error.code, error.param) == ("too_many_values", "prompt")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"x": [[]] * 30_000}, "20000 parts"), ({"x": json.loads("[" * 70 + "]" * 70)}, "deeper than 64")],
)
def test_chat_with_a_schema_too_large_is_refused_by_its_place(schema: Any, reason: str) -> None:
    """Beside it: the parameters of the second tool, functions of the old form, and a response format."""
    small, large = [{"name": name, "parameters": given} for name, given in (("a", {}), ("b", schema))]
    tools = [{"type": "function", "function": function} for function in (small, large)]
    place = "tools[1].function.parameters"
    for fields, param in (
        ({"tools": tools}, place),
        ({"functions": [small, large]}, place),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
            "response_format.json_schema.schema",
        ),
    ):
        error = refusal(decode_chat, **fields)
        assert (error.code, error.param) == ("invalid_value", param)
        assert reason in error.message


@pytest.mark.parametrize(
    "text",
    [
        "[],{}," * MAX_VALUES,
        '"[",' * 500_000,
        "\\" * 300_000 + "[," * MAX_VALUES,
        '\\"[,' * MAX_VALUES,
        "a" * ((1 << 18) - 40) + '\\"' * 9 + "[," * MAX_VALUES,
    ],
    ids=["brackets", "quotes", "backslashes", "both", "escapes at the end of a piece"],
)
def test_text_may_hold_any_characters(text: str) -> None:
    check_body_size(json.dumps({"messages": [{"role": "user", "content": text}], "n": 1}).encode())


@pytest.mark.parametrize("shift", range(4))
def test_values_behind_a_long_text_are_counted(shift: int) -> None:
    text = "a" * ((1 << 18) - 14 + shift) + '\\"\\' * 20
    body = json.dumps({"messages": [{"role": "user", "content": text}], "tools": MANY}).encode()
    with pytest.raises(InvalidRequestError) as caught:
        check_body_size(body)
    assert caught.value.param == "tools"


def test_largest_bodies_of_real_clients_are_far_below_the_bounds() -> None:
    """A thousand turns of an agent with two calls each and 128 tools of 100 properties."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, 2]}'}}
    turns = [
        {"role": "assistant", "content": "", "tool_calls": [call | {"id": "c1"}, call | {"id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "x, y"},
        {"role": "tool", "tool_call_id": "c2", "content": "{}"},
    ]
    properties = {f"p{number}": {"type": "string", "description": "a, b"} for number in range(100)}
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": {"properties": properties}}}
        for number in range(128)
    ]
    body = {"model": "m", "messages": [MESSAGE, *turns * 1000], "tools": tools}
    assert len(decode_chat(json.dumps(body).encode()).messages) == 3001
