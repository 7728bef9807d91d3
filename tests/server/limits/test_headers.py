"""Limits in response headers."""

import pytest

from serval.limits.headers import duration


@pytest.mark.parametrize(
    ("ms", "written"),
    [
        (0, "0s"),
        (1, "1ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1001, "2s"),
        (59_001, "1m0s"),
        (360_000, "6m0s"),
        (3_599_001, "1h0m0s"),
        (86_399_999, "24h0m0s"),
    ],
)
def test_duration_has_openais_format(ms: int, written: str) -> None:
    assert duration(ms) == written
