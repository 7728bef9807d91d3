"""Clearing of old results of tools."""

from typing import Any

from serval.chat.tool_clearing import (
    PLACEHOLDER,
    clearable,
    cleared,
    counts_by_bytes,
    counts_by_number,
    tool_uses,
)


def use(number: int, name: str = "read", result: str = "text") -> list[dict[str, Any]]:
    call = {"id": f"call_{number}", "function": {"name": name, "arguments": '{"path": "a"}'}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call_{number}", "content": result},
    ]


MESSAGES = [{"role": "user", "content": "Hi"}, *use(1), *use(2, "now"), *use(3), *use(4)]


def test_uses_are_calls_with_results() -> None:
    unanswered = use(5)[:1]
    found = tool_uses([*MESSAGES, *unanswered])
    assert [(one.message, one.call, one.result, one.name) for one in found] == [
        (1, 0, 2, "read"),
        (3, 0, 4, "now"),
        (5, 0, 6, "read"),
        (7, 0, 8, "read"),
    ]


def test_clearable_are_all_but_the_kept_and_the_excluded() -> None:
    uses = tool_uses(MESSAGES)
    assert clearable(uses, keep=1, exclude={"now"}) == [uses[0], uses[2]]
    assert clearable(uses, keep=9, exclude=()) == []
    assert clearable(uses, keep=0, exclude=()) == uses


def test_cleared_results_say_so_and_their_calls_stay() -> None:
    uses = tool_uses(MESSAGES)
    shorter = cleared(MESSAGES, uses[:2])
    assert [one["content"] for one in shorter if one["role"] == "tool"] == [PLACEHOLDER] * 2 + ["text"] * 2
    assert [one for one in shorter if one["role"] != "tool"] == [
        one for one in MESSAGES if one["role"] != "tool"
    ]
    assert MESSAGES[2]["content"] == "text"


def test_cleared_inputs_are_those_of_the_named_tools() -> None:
    uses = tool_uses(MESSAGES)
    shorter = cleared(MESSAGES, uses[:2], inputs_of={"read"})
    arguments = [one["tool_calls"][0]["function"]["arguments"] for one in shorter if "tool_calls" in one]
    assert arguments == ["{}", *['{"path": "a"}'] * 3]


def test_inputs_of_parallel_calls_are_cleared_in_one_message() -> None:
    calls = [{"id": f"c{n}", "function": {"name": "read", "arguments": str(n)}} for n in range(3)]
    messages = [
        {"role": "assistant", "content": "", "tool_calls": calls},
        *({"role": "tool", "tool_call_id": f"c{n}", "content": "r"} for n in (2, 0, 1)),
    ]
    shorter = cleared(messages, tool_uses(messages)[:2], inputs_of={"read"})
    assert [call["function"]["arguments"] for call in shorter[0]["tool_calls"]] == ["{}", "1", "{}"]


def test_counts_go_in_steps() -> None:
    uses = tool_uses(MESSAGES)
    assert counts_by_number(uses, 2) == [2, 4]
    assert counts_by_number(uses[:3], 2) == [2]


def test_steps_of_bytes_count_what_clearing_saves() -> None:
    long = PLACEHOLDER + "x" * 10
    messages = [*use(1, result=long), *use(2, result="short"), *use(3, result=long), *use(4, result=long)]
    uses = tool_uses(messages)
    assert counts_by_bytes(messages, uses, 10) == [1, 3, 4]
    assert counts_by_bytes(messages, uses, 20) == [3]
