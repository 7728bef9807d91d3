"""Confidence intervals, by published figures and by simulation."""

import random

import pytest

from serval.evaluation.intervals import clustered, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_published_intervals(right: int, total: int, low: float, high: float) -> None:
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(total - right, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_needs_an_observation() -> None:
    with pytest.raises(ValueError, match="at least one observation"):
        wilson(0, 0)


def test_clustered_covers_the_mean_of_problems_that_agree_with_themselves() -> None:
    """Each problem is always right or always wrong: 8 trials of 50 problems are 50 observations, not 400."""
    generator, covered = random.Random(7), 0
    for _ in range(400):
        means = [float(generator.random() < 0.5) for _ in range(50)]
        low, high = clustered(means)
        covered += low <= 0.5 <= high
    assert covered / 400 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("means", [[0.0] * 9, [1.0] * 9, [0.5]])
def test_clustered_is_wilson_where_problems_do_not_differ(means: list[float]) -> None:
    assert clustered(means) == wilson(sum(means), len(means))


def test_clustered_stays_between_0_and_1() -> None:
    low, high = clustered([0.0, 0.0, 0.0, 0.1])
    assert low == 0
    assert 0.025 < high < 1
