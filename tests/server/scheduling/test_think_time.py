"""Silence that is longer than usual, from the times that an agent took before."""

import pytest

from serval.scheduling.think_time import FIRST_LIMIT_S, LEAST_LIMIT_S, MOST_LIMIT_S, ThinkTime


def after(*seconds: float) -> ThinkTime:
    think = ThinkTime()
    for one in seconds:
        think.observe(one)
    return think


def test_limit_is_assumed_until_something_is_known() -> None:
    assert ThinkTime().limit_s == FIRST_LIMIT_S


def test_limit_follows_rfc_6298() -> None:
    think = after(4.0, 8.0)
    # deviation: 2 + (4 - 2) / 4; mean: 4 + 4 / 8.
    assert (think.mean_s, think.deviation_s) == (4.5, 2.5)
    assert think.limit_s == 4.5 + 3 * 2.5


def test_regular_agent_is_soon_known_to_be_silent() -> None:
    assert after(*[4.0] * 30).limit_s == pytest.approx(4.0, abs=0.1)
    assert after(*[4.0, 12.0] * 15).limit_s > 15.0


@pytest.mark.parametrize(
    ("seconds", "limit"), [(0.0, LEAST_LIMIT_S), (-5.0, LEAST_LIMIT_S), (1e9, MOST_LIMIT_S)]
)
def test_limit_stays_within_bounds(seconds: float, limit: float) -> None:
    assert after(*[seconds] * 5).limit_s == limit
