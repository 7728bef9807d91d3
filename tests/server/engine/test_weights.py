"""Weights of engines: their forms, and shares of all conversations as numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serval.engine.weights import ORDINARY, Weight, check_shares, parse_weight, relative_weights


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("1", ORDINARY),
        ("0", Weight(0.0)),
        ("0.05", Weight(0.05)),
        ("100", Weight(100.0)),
        ("5%", Weight(0.05, is_share=True)),
        ("0.5%", Weight(0.005, is_share=True)),
        ("99%", Weight(0.99, is_share=True)),
    ],
)
def test_parse_weight_reads_numbers_and_shares(text: str, weight: Weight) -> None:
    assert parse_weight(text) == weight
    assert parse_weight(str(weight)) == weight


@pytest.mark.parametrize(
    "text", ["", "-1", "100.1", "99.5%", "100%", "1e3", "nan", "inf", "5 %", "½", "٣", "%"]
)
def test_parse_weight_refuses_others_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"give a share of all conversations from 0% to 99%, such as 5%"):
        parse_weight(text)


def test_check_shares_leaves_the_other_engines_something() -> None:
    check_shares([Weight(0.5, is_share=True), Weight(0.49, is_share=True), Weight(7)])
    with pytest.raises(ValueError, match=r"add up to 100% .* at least 1%"):
        check_shares([Weight(0.5, is_share=True)] * 2)


@given(
    st.lists(st.floats(min_value=0.1, max_value=100), min_size=1, max_size=9),
    st.lists(st.integers(min_value=0, max_value=30), max_size=3),
)
def test_relative_weights_give_shares_their_part_of_all(numbers: list[float], percents: list[int]) -> None:
    weights = [Weight(number) for number in numbers]
    shares = [(Weight(one / 100, is_share=True), 1) for one in percents]
    relative = relative_weights([*((weight, 1) for weight in weights), *shares])
    assert relative[: len(numbers)] == numbers
    for percent, weight in zip(percents, relative[len(numbers) :], strict=True):
        assert weight / sum(relative) == pytest.approx(percent / 100)


def test_relative_weights_of_shares_alone_are_in_proportion() -> None:
    two, one = relative_weights([(Weight(0.2, is_share=True), 1), (Weight(0.1, is_share=True), 1)])
    assert two == pytest.approx(2 * one)


def test_relative_weights_divide_a_share_among_the_ranks_of_an_engine() -> None:
    ordinary, share = relative_weights([(ORDINARY, 6), (Weight(0.25, is_share=True), 4)])
    assert (ordinary, share) == (1.0, pytest.approx(0.5))
    assert 4 * share / (6 * ordinary + 4 * share) == pytest.approx(0.25)


def test_relative_weights_count_no_engine_that_has_not_been_there() -> None:
    """The range of a list may be larger than the number of engines today."""
    absent = [(ORDINARY, 0)] * 5 + [(Weight(0.5, is_share=True), 0)]
    *_, share = relative_weights([(ORDINARY, 1), (ORDINARY, 1), *absent, (Weight(0.2, is_share=True), 1)])
    assert share / (2 + share) == pytest.approx(0.2)
