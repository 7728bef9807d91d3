"""The circuit breaker, without an engine."""

import pytest

from serval.engine.breaker import CircuitBreaker
from serval.errors import EngineUnavailableError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(failures=3, open_s=2.0, now=clock)
    for _ in range(3):
        breaker.enter()
        breaker.record_failure()
    return breaker


def test_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = CircuitBreaker(failures=3, open_s=2.0, now=Clock())
    for _ in range(10):
        breaker.record_failure()
        breaker.record_failure()
        breaker.record_success()
    assert not breaker.enter()
    assert not breaker.is_open


def test_open_breaker_refuses_with_retry_after() -> None:
    breaker = opened(Clock())
    assert breaker.is_open
    with pytest.raises(EngineUnavailableError) as refused:
        breaker.enter()
    assert refused.value.headers["retry-after"] == "2"


def test_breaker_closes_after_a_successful_trial() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 2.1
    assert not breaker.is_open
    assert breaker.enter()
    with pytest.raises(EngineUnavailableError):
        breaker.enter()
    breaker.record_success()
    assert not breaker.enter()


def test_breaker_reports_when_it_opens_and_closes() -> None:
    clock, told = Clock(), list[bool]()
    breaker = CircuitBreaker(failures=2, open_s=2.0, now=clock)
    breaker.on_change = told.append
    breaker.record_success()
    for _ in range(5):
        breaker.record_failure()
    assert told == [True]
    clock.now = 2.1
    breaker.enter()
    breaker.record_success()
    breaker.record_success()
    assert told == [True, False]


def test_breaker_opens_again_after_a_failed_trial() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 2.1
    breaker.enter()
    breaker.record_failure()
    assert breaker.is_open
    clock.now = 4.2
    assert breaker.enter()


def test_breaker_allows_another_trial_after_an_abandoned_one() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 2.1
    breaker.enter()
    breaker.abandon_trial()
    assert breaker.enter()
