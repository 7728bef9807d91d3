"""The ledger: all or nothing, one end for each reservation, leases, days."""

from itertools import count

import pytest

from serval.caller.limits import Limits
from serval.limits.daily_use import DAY_S, DailyUse
from serval.limits.ledger import Ledger, Moment
from serval.limits.messages import Decision, ReservationRequest

LEASE_MS = 60_000
NOON = 20_000 * DAY_S + DAY_S // 2
T0 = Moment(0, NOON)
NUMBERS = count()


def later(ms: int) -> Moment:
    return Moment(ms, NOON + ms / 1000)


def request(limits: Limits, tokens: int = 1, subject: str = "a", **fields: int) -> ReservationRequest:
    return ReservationRequest(f"id-{next(NUMBERS)}", subject, limits, tokens, **fields)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(DailyUse(), lease_ms=LEASE_MS)


def test_reserve_refused_request_consumes_nothing(ledger: Ledger) -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=100, concurrent_requests=5, tokens_per_day=1000)
    assert ledger.reserve(request(limits, 60), T0).refused is None
    for _ in range(50):
        decision = ledger.reserve(request(limits, 60), T0)
        assert (decision.refused, decision.requests_remaining, decision.tokens_remaining) == ("tokens", 9, 40)
    # Requests, slots and the day's budget were not debited: all small requests fit.
    for _ in range(4):
        assert ledger.reserve(request(limits, 10), T0).refused is None
    assert ledger.reserve(request(limits, 0), T0).refused == "concurrency"


def test_reserve_counts_tokens_of_concurrent_requests_together(ledger: Ledger) -> None:
    limits = Limits(tokens_per_minute=100)
    decisions = [ledger.reserve(request(limits, 30), T0) for _ in range(20)]
    assert [decision.refused for decision in decisions] == [None] * 3 + ["tokens"] * 17


def test_reserve_reports_the_longest_wait_of_several_limits(ledger: Ledger) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=100, concurrent_requests=1)
    ledger.reserve(request(limits, 100), T0)
    decision = ledger.reserve(request(limits, 50), T0)
    assert (decision.refused, decision.wait_ms) == ("requests", 60_000)


def test_settle_after_the_first_end_changes_nothing(ledger: Ledger) -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=100)
    one = request(limits, 50)
    ledger.reserve(one, T0)
    ledger.settle(one.id, requests=1, tokens=20, now=T0)
    ledger.settle(one.id, requests=1, tokens=0, now=T0)
    ledger.settle(one.id, requests=0, tokens=0, now=T0)
    assert remaining(ledger, limits) == (8, 80)  # the question itself is a request too


def remaining(ledger: Ledger, limits: Limits, now: Moment = T0) -> tuple[int, int]:
    decision = ledger.reserve(request(limits, 0), now)
    assert decision.refused is None
    return decision.requests_remaining, decision.tokens_remaining


def test_close_refunds_everything(ledger: Ledger) -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=100, concurrent_requests=1, tokens_per_day=100)
    for _ in range(30):
        one = request(limits, 100)
        assert ledger.reserve(one, T0).refused is None
        ledger.settle(one.id, requests=0, tokens=0, now=T0)
    assert remaining(ledger, limits) == (9, 100)


def test_lease_expiry_frees_the_slot_and_keeps_the_debit(ledger: Ledger) -> None:
    limits = Limits(concurrent_requests=1, tokens_per_day=100)
    one = request(limits, 60)
    ledger.reserve(one, T0)
    assert ledger.reserve(request(limits), later(LEASE_MS - 1)).refused == "concurrency"
    assert ledger.reserve(request(limits), later(LEASE_MS)).refused is None
    # An abandoned reservation has ended: it cannot be settled.
    ledger.settle(one.id, requests=1, tokens=0, now=later(LEASE_MS))
    assert ledger.reserve(request(limits, 40), later(3 * LEASE_MS)).refused == "budget"
    assert ledger.reserve(request(limits, 39), later(3 * LEASE_MS)).refused is None


def test_renew_keeps_the_slot(ledger: Ledger) -> None:
    limits = Limits(concurrent_requests=1)
    one = request(limits)
    ledger.reserve(one, T0)
    for step in range(1, 20):
        ledger.renew([one.id], later(step * LEASE_MS // 2))
        assert ledger.reserve(request(limits), later(step * LEASE_MS // 2)).refused == "concurrency"
    ledger.settle(one.id, requests=1, tokens=1, now=later(10 * LEASE_MS))
    assert ledger.reserve(request(limits), later(10 * LEASE_MS)).refused is None


def test_budget_starts_anew_each_utc_day(ledger: Ledger) -> None:
    limits = Limits(tokens_per_day=100)
    one = request(limits, 100)
    assert ledger.reserve(one, T0).refused is None
    ledger.settle(one.id, requests=1, tokens=100, now=T0)
    decision = ledger.reserve(request(limits, 1), T0)
    assert decision.refused == "budget"
    assert 0 <= decision.wait_ms - DAY_S // 2 * 1000 <= 1
    assert ledger.reserve(request(limits, 100), later(decision.wait_ms)).refused is None


def test_reserve_counts_the_requests_of_a_call(ledger: Ledger) -> None:
    limits = Limits(requests_per_minute=10, concurrent_requests=5)
    one = request(limits, requests=4)
    assert ledger.reserve(one, T0).requests_remaining == 6
    assert ledger.reserve(request(limits, requests=2), T0).refused == "concurrency"
    assert ledger.reserve(request(limits, requests=1), T0).refused is None
    # Two were refused by the engine, or had not been sent: they have not been used.
    ledger.settle(one.id, requests=2, tokens=0, now=T0)
    assert ledger.reserve(request(limits, requests=4), T0).requests_remaining == 3


def test_budget_is_not_used_up_while_running_requests_hold_it(ledger: Ledger) -> None:
    """Also tried: reservations that expired, that are of another day, and of a key without a budget then."""
    limits = Limits(tokens_per_day=2000)
    running = [request(limits, 503) for _ in range(3)]
    for one in running:
        assert ledger.reserve(one, T0).refused is None
    for _ in range(9):
        decision = ledger.reserve(request(limits, 503), T0)
        assert (decision.refused, decision.wait_ms) == ("budget_reserved", 1000)
    for one in running:
        ledger.settle(one.id, requests=1, tokens=10, now=T0)
    assert ledger.reserve(request(limits, 503), T0).day_remaining == 2000 - 30 - 503
    # A request that cannot fit today is refused for the day.
    assert ledger.reserve(request(limits, 1971), T0).refused == "budget"


def test_budget_held_by_an_abandoned_request_is_used_up(ledger: Ledger) -> None:
    limits = Limits(tokens_per_day=100)
    ledger.reserve(request(limits, 60), T0)
    assert ledger.reserve(request(limits, 60), later(LEASE_MS - 1)).refused == "budget_reserved"
    assert ledger.reserve(request(limits, 60), later(LEASE_MS)).refused == "budget"


def test_optional_tokens_are_not_reserved_if_the_day_has_no_more(ledger: Ledger) -> None:
    limits = Limits(tokens_per_day=100)
    one = request(limits, 100, optional_tokens=90)
    assert ledger.reserve(one, T0).day_remaining == 0
    assert ledger.reserve(request(limits, 100, optional_tokens=90), T0).refused == "budget_reserved"
    ledger.settle(one.id, requests=1, tokens=5, now=T0)
    two = request(limits, 100, optional_tokens=90)
    assert ledger.reserve(two, T0).refused is None
    # More than was reserved is charged, too.
    ledger.settle(two.id, requests=1, tokens=86, now=T0)
    assert ledger.reserve(request(limits, 9), T0).day_remaining == 0
    assert ledger.reserve(request(limits, 100, optional_tokens=99), T0).refused == "budget_reserved"


def test_settle_after_midnight_counts_for_the_day_of_the_reservation() -> None:
    daily = DailyUse()
    ledger = Ledger(daily, lease_ms=LEASE_MS)
    one = request(Limits(tokens_per_day=100), 70)
    day = 20_000
    ledger.reserve(one, Moment(0, (day + 1) * DAY_S - 1))
    ledger.settle(one.id, requests=1, tokens=25, now=Moment(2000, (day + 1) * DAY_S + 1))
    assert (daily.used("a", day), daily.used("a", day + 1)) == (25, 0)


@pytest.mark.parametrize("step_s", [-3600, 3600, -86_400, 86_400])
def test_budget_is_not_granted_twice_when_the_clock_is_set(ledger: Ledger, step_s: int) -> None:
    limits = Limits(requests_per_minute=1, concurrent_requests=1, tokens_per_day=100)
    one = request(limits, 100)
    ledger.reserve(one, T0)
    stepped = Moment(1000, NOON + 1 + step_s)
    assert ledger.reserve(request(limits, 1), stepped).refused in ("requests", "budget_reserved")
    assert ledger.reserve(request(Limits(concurrent_requests=1)), stepped).refused == "concurrency"
    ledger.settle(one.id, requests=1, tokens=100, now=stepped)
    # With the clock set back, the day's use is as before.
    assert ledger.reserve(request(limits, 1), later(120_000)).refused == "budget"


def test_sweep_drops_accounts_of_quiet_keys(ledger: Ledger) -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=100)
    requests = [request(limits, 50, subject=f"s{number}") for number in range(100)]
    for one in requests:
        ledger.reserve(one, T0)
    ledger.sweep(later(1000))
    assert ledger.subject_count == 100
    for one in requests[1:]:
        ledger.settle(one.id, requests=1, tokens=50, now=later(1000))
    ledger.sweep(later(LEASE_MS - 1))
    assert ledger.subject_count == 1
    ledger.sweep(later(LEASE_MS))
    assert ledger.subject_count == 0


def test_decision_is_zero_for_dimensions_without_limit(ledger: Ledger) -> None:
    assert ledger.reserve(request(Limits(concurrent_requests=1)), T0) == Decision()
