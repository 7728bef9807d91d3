"""Estimate of how often drafts are accepted, by position."""

import pytest

from serval_sglang.drafts.acceptance import Acceptance


def test_acceptance_expects_all_drafts_before_the_first_pass() -> None:
    assert Acceptance(3).tokens_per_pass(3) == 4


def test_acceptance_counts_a_position_among_those_that_were_reached() -> None:
    acceptance = Acceptance(3)
    acceptance.update(3, [0, 1, 2, 3])
    # 3 of 4 first drafts, 2 of the 3 behind them, 1 of the 2 behind those.
    assert [acceptance.tokens_per_pass(steps) for steps in range(4)] == pytest.approx([1, 1.75, 2.25, 2.5])


def test_acceptance_scales_positions_that_are_not_drafted() -> None:
    acceptance = Acceptance(2)
    acceptance.update(2, [2] * 8)
    for _ in range(300):
        acceptance.update(1, [0, 1])
    # Still all of the second drafts behind a right one.
    assert acceptance.tokens_per_pass(2) == pytest.approx(1 + 0.5 + 0.5, abs=0.01)


def test_acceptance_forgets_a_position_that_was_not_drafted_for_long() -> None:
    acceptance = Acceptance(1)
    acceptance.update(1, [0] * 100)
    for _ in range(100):
        acceptance.update(0, [0] * 100)
    acceptance.update(1, [1])
    assert acceptance.tokens_per_pass(1) == 2


def test_acceptance_follows_a_change() -> None:
    acceptance = Acceptance(1)
    for _ in range(200):
        acceptance.update(1, [1])
    for _ in range(23):
        acceptance.update(1, [0])
    assert acceptance.tokens_per_pass(1) == pytest.approx(1.5, abs=0.02)
