"""The training text of the demo model."""

from itertools import islice
from typing import Any

import pytest

from serval_sglang.demo.corpus import Conversation, conversations
from serval_sglang.demo.names import HELD_OUT_CITIES
from serval_sglang.demo.tool_results import spoken


@pytest.fixture(scope="module")
def sample() -> list[Conversation]:
    return list(islice(conversations(7), 2000))


def calls_of(conversation: Conversation) -> list[tuple[str, dict[str, Any]]]:
    functions = [
        call["function"] for message in conversation.messages for call in message.get("tool_calls", ())
    ]
    return [(function["name"], function["arguments"]) for function in functions]


def test_corpus_is_determined_by_seed(sample: list[Conversation]) -> None:
    assert list(islice(conversations(7), 2000)) == sample
    assert list(islice(conversations(8), 20)) != sample[:20]


def test_corpus_calls_fit_declared_tools(sample: list[Conversation]) -> None:
    for conversation in sample:
        parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in conversation.tools}
        assert len(parameters) == len(conversation.tools), "a name is declared twice"
        for name, arguments in calls_of(conversation):
            properties = list(parameters[name]["properties"])
            assert set(parameters[name].get("required", ())) <= arguments.keys()
            assert list(arguments) == [key for key in properties if key in arguments]


def test_corpus_pairs_calls_and_results(sample: list[Conversation]) -> None:
    for conversation in sample:
        expected: list[str] = []
        for message in conversation.messages:
            if message["role"] == "tool":
                assert message["tool_call_id"] == expected.pop(0)
            else:
                assert not expected, "a turn came before all results"
            # A conversation may end with unanswered calls.
            expected += [call["id"] for call in message.get("tool_calls", ())]


def test_corpus_never_calls_for_held_out_cities(sample: list[Conversation]) -> None:
    values = {
        value
        for conversation in sample
        for _, arguments in calls_of(conversation)
        for value in arguments.values()
    }
    assert not values & set(HELD_OUT_CITIES)


def test_corpus_has_parallel_calls_and_unused_tools(
    sample: list[Conversation],
) -> None:
    parallel = [item for item in sample if any(len(m.get("tool_calls", ())) > 1 for m in item.messages)]
    idle = [item for item in sample if item.tools and not calls_of(item)]
    assert len(parallel) > 200
    assert len(idle) > 100


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"city": "Paris", "forecast": "sunny", "temp_c": 21}, "sunny, 21 °C"),
        ({"temp": -3.5, "wind": 12, "place": "Rome"}, "-3.5 degrees, wind 12"),
        (
            {"forecast": [{"day": 1, "weather": "rain"}, {"day": 2, "weather": "fog"}]},
            "day 1, rain; day 2, fog",
        ),
        ([True, None, "x"], "true, null, x"),
    ],
)
def test_answer_repeats_result_without_braces(result: object, text: str) -> None:
    assert spoken(result) == text
