"""The bound on attempts to sign in."""

import pytest

from serval.console.attempts import OF_ALL, PER_ADDRESS, SignInAttempts
from serval.errors import RateLimitError


def test_attempts_of_an_address_are_bounded_and_come_back() -> None:
    now = 0.0
    attempts = SignInAttempts(lambda: now)
    for _ in range(PER_ADDRESS):
        attempts.count("a")
    with pytest.raises(RateLimitError) as refused:
        attempts.count("a")
    assert refused.value.headers["retry-after"] == "6"
    attempts.count("b")
    now = 6.0
    attempts.count("a")


def test_attempts_of_all_addresses_are_bounded() -> None:
    attempts = SignInAttempts(lambda: 0.0)
    for number in range(OF_ALL):
        attempts.count(str(number))
    with pytest.raises(RateLimitError):
        attempts.count("another")


def test_addresses_are_held_within_a_bound() -> None:
    now = 0.0
    attempts = SignInAttempts(lambda: now)
    for number in range(5000):
        now += 60.0
        attempts.count(str(number))
    assert len(attempts._by_address) <= 1024
