"""Recent prompts of each key: the most similar one, and bounds."""

import random
import sys

import pytest

from serval.chat.prompt_history import PROMPTS_OF_KEY, PromptHistory, shared_length

ROOM = 1 << 20


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [("", "", 0), ("a", "", 0), ("abc", "abd", 2), ("abc", "abcd", 3), ("abcd", "abc", 3), ("xbc", "abc", 0)],
)
def test_shared_length_counts_the_common_beginning(one: str, other: str, length: int) -> None:
    assert shared_length(one, other) == length


def test_shared_length_is_right_at_every_place() -> None:
    text = "".join(random.Random(1).choices("ab", k=130))
    for place in range(len(text)):
        assert shared_length(text, text[:place] + "x" + text[place + 1 :]) == place


def test_history_finds_the_most_similar_prompt_of_the_key_alone() -> None:
    history = PromptHistory(ROOM)
    assert history.most_similar("a", "hello") is None
    history.add("a", "help me")
    history.add("a", "hello world")
    history.add("a", "other")
    history.add("b", "hello there")
    assert history.most_similar("a", "hello there") == ("hello world", 6)
    assert history.most_similar("b", "help") == ("hello there", 3)
    assert history.most_similar("c", "hello") is None


def test_history_holds_a_conversation_once() -> None:
    history = PromptHistory(ROOM)
    history.add("a", "other")
    for end in range(1, 100):
        history.add("a", "x" * end)
    assert history.size_bytes == sys.getsizeof("x" * 99) + sys.getsizeof("other")


def test_history_is_bounded_for_each_key_and_all() -> None:
    history = PromptHistory(40_000)
    for number in range(100):
        history.add("many", f"{number} short")
    found = {number for number in range(100) if history.most_similar("many", f"{number} short")[1] > 3}  # type: ignore[index]
    assert max(found) == 99
    assert history.size_bytes <= PROMPTS_OF_KEY * sys.getsizeof("99 short")
    for number in range(100):
        history.add("long", f"{number}" + "x" * 4000)
        assert history.size_bytes <= 10_000 + PROMPTS_OF_KEY * 100
    history.add("long", "x" * 20_000)  # more than its share: not held
    for number in range(100):
        history.add(f"key {number}", f"{number}" + "x" * 4000)
        assert history.size_bytes <= 40_000
    assert history.most_similar("many", "99 short") is None
    assert history.most_similar("key 99", "99x") is not None


def test_history_without_room_holds_nothing() -> None:
    history = PromptHistory(0)
    history.add("a", "hello")
    assert history.most_similar("a", "hello") is None
    assert history.size_bytes == 0
