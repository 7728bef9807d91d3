"""Cuts of conversations: whole turns, whole calls, and the same place over many turns."""

from typing import Any

import pytest

from serval.chat.truncation import coarse, cuts, kept_from, size_bytes

SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def step(number: int, result: str = "r") -> list[dict[str, Any]]:
    """A message of the model with two calls, and their results."""
    ids = [f"call_{number}a", f"call_{number}b"]
    calls = [{"id": one, "type": "function", "function": {"name": "read", "arguments": "{}"}} for one in ids]
    results = [{"role": "tool", "tool_call_id": one, "content": result} for one in ids]
    return [{"role": "assistant", "content": "", "tool_calls": calls}, *results]


CONVERSATION = [SYSTEM, user("a"), answer("A"), user("b"), user("b2"), *step(1), *step(2), *step(3)]


def test_cuts_keep_calls_with_their_results_and_what_must_be_answered() -> None:
    # Before the answer of the first turn, the second turn, and each step but the first message of all.
    assert cuts(CONVERSATION, 1 << 20) == [2, 3, 5, 8, 11]
    assert kept_from(CONVERSATION, 11) == [SYSTEM, user("b"), user("b2"), *step(3)]


@pytest.mark.parametrize("cut", [2, 3, 5, 8, 11])
def test_cut_conversation_has_instructions_a_question_and_no_result_without_its_call(cut: int) -> None:
    kept = kept_from(CONVERSATION, cut)
    assert kept[0] == SYSTEM
    assert kept[1]["role"] == "user"
    called = {call["id"] for message in kept for call in message.get("tool_calls", ())}
    assert {one["tool_call_id"] for one in kept if one["role"] == "tool"} == called
    assert kept[-1] == CONVERSATION[-1]


def test_cut_before_a_turn_drops_the_questions_before_it() -> None:
    assert kept_from(CONVERSATION, 3) == [SYSTEM, *CONVERSATION[3:]]
    assert kept_from(CONVERSATION, 2) == CONVERSATION


def test_conversation_without_a_question_is_cut_without_one() -> None:
    messages = [answer("A"), answer("B"), user("c")]
    assert cuts(messages, 1 << 20) == [1, 2]
    assert kept_from(messages, 1) == messages[1:]


def test_one_question_cannot_be_cut() -> None:
    assert cuts([SYSTEM, user("a"), user("b")], 1) == []
    assert cuts([SYSTEM], 1) == []
    assert cuts([], 1) == []


def test_coarse_totals_are_the_first_of_each_step() -> None:
    assert coarse([3, 9, 10, 11, 35, 39, 40], 10) == [2, 4, 6]
    assert coarse([], 10) == []


def test_cuts_in_use_stay_where_they_are_while_the_conversation_grows() -> None:
    messages: list[dict[str, Any]] = [SYSTEM, user("task")]
    seen: list[int] = []
    step_bytes = 3 * sum(map(size_bytes, step(10, "x" * 50)))
    for number in range(10, 40):
        messages += step(number, "x" * 50)
        fixed = [cut for cut in cuts(messages, step_bytes) if cut + 9 < len(messages)]
        assert fixed[: len(seen)] == seen
        seen = fixed
    # A cut for every three steps, not for every one.
    assert len(seen) == 8
