"""Comparison of answers to the same questions."""

import math

import pytest

from serval_sglang.consistency.comparison import agreement
from serval_sglang.verify.engine import Generation
from serval_sglang.verify.verification import Bound


def answer(*steps: dict[int, float], prompt: tuple[int, ...] = (5, 6)) -> Generation:
    """An answer of the most likely token of each step."""
    tokens = [max(step, key=lambda token: step[token]) for step in steps]
    return Generation(prompt, tokens, list(steps), [], cached_tokens=0)


ONE = answer({1: -0.1, 2: -2.0}, {3: -0.2, 4: -1.8})


def test_agreement_of_equal_answers() -> None:
    found = agreement("again", [ONE, ONE], [ONE, ONE], dtype="bfloat16")
    assert found.agrees
    assert (found.equal, found.difference.positions, found.difference.maximum) == (2, 4, 0.0)
    assert str(found).startswith("agrees  again: 2 of 2 answers have equal tokens")


def test_agreement_compares_log_probabilities_of_equal_tokens() -> None:
    moved = answer({1: -0.2, 2: -1.9}, {3: -0.3, 4: -1.7})
    found = agreement("together", [ONE], [moved], dtype="bfloat16")
    assert not found.agrees
    assert found.difference.mean == pytest.approx(0.1)
    assert agreement("together", [ONE], [moved], dtype="bfloat16", bound=Bound("mean", 0.11)).agrees


def test_agreement_explains_a_tie_by_rounding() -> None:
    tied = answer({1: -0.70, 2: -0.71}, {3: -0.2, 4: -1.8})
    turned = answer({1: -0.71, 2: -0.70}, {8: -0.5, 9: -9.0})
    found = agreement("together", [tied], [turned], dtype="bfloat16")
    assert found.agrees
    # Steps after other tokens are not compared.
    assert (found.equal, found.difference.ties, found.difference.positions) == (0, 1, 1)


def test_agreement_finds_answers_that_part_where_there_is_no_tie() -> None:
    other = answer({1: -0.1, 2: -2.0}, {3: -1.9, 4: -0.2})
    found = agreement("again", [ONE, ONE], [ONE, other], dtype="bfloat16")
    assert not found.agrees
    assert "request 1 parts at position 3, which is no tie" in str(found)


def test_agreement_finds_a_token_that_was_not_even_reported() -> None:
    found = agreement("again", [ONE], [answer({9: -0.1}, {3: -0.2})], dtype="bfloat16")
    assert found.difference.first_disagreement is not None


def test_agreement_finds_a_nan() -> None:
    broken = answer({1: math.nan}, {3: -0.2, 4: -1.8})
    assert not agreement("again", [ONE], [broken], dtype="bfloat16").agrees


def test_agreement_refuses_answers_to_other_questions() -> None:
    with pytest.raises(ValueError, match="request 0"):
        agreement("again", [ONE], [answer({1: -0.1}, {3: -0.2}, prompt=(5, 7))], dtype="bfloat16")
