"""The loop within a budget, against a server that counts a token for each three bytes."""

import json
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from budgeted_loop import ANSWER_NOW, NoAnswerError, Tool, answered, declared, shortened

QUESTION = {"role": "user", "content": "Where is it?"}
# A conversation, and the names of the calls of the answer to it.
Calls = Callable[[Sequence[Mapping[str, Any]]], list[str]]


class Server:
    """Keeps each conversation as it was sent."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.sent: list[str] = []

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> Any:
        text = json.dumps(messages)
        self.sent.append(text)
        calls = [
            SimpleNamespace(
                id=f"call_{len(messages)}_{number}", function=SimpleNamespace(name=name, arguments='{"n": 1}')
            )
            for number, name in enumerate(self.calls(messages))
        ]
        dumped = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.id, "function": vars(call.function)} for call in calls],
        }
        message = SimpleNamespace(content="There.", tool_calls=calls, model_dump=lambda **_: dumped)
        usage = SimpleNamespace(
            prompt_tokens=len(text) // 3,
            completion_tokens=20,
            prompt_tokens_details=SimpleNamespace(cached_tokens=10),
        )
        return SimpleNamespace(usage=usage, choices=[SimpleNamespace(message=message)])


def tool(run: Callable[..., str], name: str = "read") -> Tool:
    return Tool(run, declared(name, "Read.", n={"type": "integer"}))


def until_told(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    return [] if messages[-1]["content"] == ANSWER_NOW else ["read", "read"]


@pytest.mark.parametrize("budget", [3_000, 8_000, 20_000])
def test_loop_stays_within_its_budget_and_asks_for_the_answer_where_it_ends(budget: int) -> None:
    server = Server(until_told)
    text, spent = answered(
        server.ask, [QUESTION], [tool(lambda n: "line of a file\n" * 400)], budget=budget, most_requests=99
    )
    assert text == "There."
    assert budget / 3 < spent.longest <= budget
    assert spent.requests == len(server.sent)
    assert spent.cached == 10 * spent.requests


def test_each_prompt_begins_with_the_one_before() -> None:
    server = Server(until_told)
    answered(server.ask, [QUESTION], [tool(lambda n: "x" * 2_000)], budget=9_000, most_requests=99)
    assert len(server.sent) > 3
    for before, after in zip(server.sent, server.sent[1:], strict=False):
        assert after.startswith(before.removesuffix("]"))


def test_model_that_goes_on_calling_is_stopped() -> None:
    server = Server(lambda messages: ["read"])
    with pytest.raises(NoAnswerError, match="goes on calling at the end of its budget of 4,000 tokens"):
        answered(server.ask, [QUESTION], [tool(lambda n: "x" * 5_000)], budget=4_000)
    with pytest.raises(NoAnswerError, match="no answer after 3 requests"):
        answered(server.ask, [QUESTION], [tool(lambda n: "x")], budget=10**6, most_requests=3)


def test_errors_of_calls_go_back_to_the_model() -> None:
    def fails(n: int) -> str:
        raise ValueError("outside of the repository")

    names = iter([["read", "write", "odd"], []])
    messages: list[dict[str, Any]] = [QUESTION]
    server = Server(lambda messages: next(names))
    answered(server.ask, messages, [tool(fails), tool(lambda: "", "odd")], budget=10**6)
    results = [message["content"] for message in messages if message["role"] == "tool"]
    assert results[:2] == ["error: outside of the repository", "error: there is no tool 'write'"]
    assert results[2].startswith("error: ")


def test_shortened_text_ends_with_a_whole_line_and_says_so() -> None:
    assert shortened("short", 10) == "short"
    assert shortened("first\nsecond\nthird\n" * 9, 38) == "first\nsecond\n[cut: ask for less]"
    assert len(shortened("ä" * 500, 100).encode()) <= 100
