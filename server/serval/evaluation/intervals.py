"""Confidence intervals of scores between 0 and 1."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Final

# Quantile of the normal distribution for 95 %, both sides.
Z95: Final = 1.959963984540054


def wilson(right: float, total: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927), also sound near 0 and 1.

    Raises `ValueError` without any observation.
    """
    if total < 1:
        raise ValueError("an interval needs at least one observation")
    share, z2 = right / total, Z95 * Z95
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    # At a share of 0 or 1 the bound is exact; rounding must not move it.
    return (
        0.0 if right <= 0 else max(0.0, middle - half),
        1.0 if right >= total else min(1.0, middle + half),
    )


def clustered(means: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of scores of problems, each averaged over its trials.

    The trials of one problem are not independent, so the standard error is that over problems (Miller 2024,
    arXiv 2411.00640, section 2.2). If all problems have the same mean, or there is only one, nothing is known
    about the spread, and the interval is Wilson's for as many problems. Raises `ValueError` without any.
    """
    mean = fmean(means) if means else 0.0
    if len(means) < 2 or len(set(means)) == 1:
        return wilson(mean * len(means), len(means))
    half = Z95 * stdev(means) / math.sqrt(len(means))
    return max(0.0, mean - half), min(1.0, mean + half)
