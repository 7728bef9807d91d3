"""The experiment's comparison of usage with answers finds what is missing and what is counted twice."""

from dataclasses import replace

import pytest

from serval.usage.verification import Comparison
from serval_load.usage_kills import Received, books, difference

WHOLE = Received(requests=10, prompt_tokens=100, completion_tokens=50)


@pytest.mark.parametrize(
    ("received", "counted", "within"),
    [
        (WHOLE, (10, 100, 50), True),
        (WHOLE, (9, 90, 45), False),
        (WHOLE, (10, 100, 49), False),
        (WHOLE, (11, 110, 55), False),
        (replace(WHOLE, cut_requests=1, cut_completion_tokens=5), (11, 110, 55), True),
        (replace(WHOLE, cut_requests=1, cut_completion_tokens=5), (11, 110, 56), False),
        (replace(WHOLE, cut_requests=1, cut_completion_tokens=5), (9, 90, 45), False),
    ],
)
def test_difference_is_within_the_bound_only_if_all_is_counted_once(
    received: Received, counted: tuple[int, int, int], within: bool
) -> None:
    assert difference({"a": received}, {"a": counted}).is_within_bound is within


def test_difference_of_one_key_is_not_hidden_by_another() -> None:
    found = difference({"a": WHOLE, "b": WHOLE}, {"a": (9, 90, 45), "b": (11, 110, 55)})
    assert (found.missing_requests, found.missing_tokens) == (1, 15)
    assert (found.unexplained_requests, found.unexplained_tokens) == (1, 15)
    assert not found.is_within_bound


def test_books_sum_up_what_differs_and_what_kills_hold() -> None:
    found = books(
        [
            Comparison("a", 1, "tokens", 100, 100, 30),
            Comparison("a", 1, "cost", 100, 90, 0),
            Comparison("b", 1, "tokens", 100, 80, 20),
            Comparison("team:t", 1, "tokens", 200, 205, 50),
        ],
        200,
        {"prompt finished": 150, "generation finished": 60, "prompt gone": 7},
    )
    assert (found.sums, found.agree, found.held, found.differ, found.held_by_kills) == (4, 1, 20, 5, 50)
    assert (found.engine_finished_tokens, found.engine_cut_tokens) == (210, 7)
