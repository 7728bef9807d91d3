"""Budgets: amounts without rounding, periods of the calendar, contradictions."""

from datetime import date, timedelta

import pytest

from serval.caller.budgets import (
    Budget,
    amount_of,
    amount_text,
    budgets_of,
    changed_budgets,
    from_json,
    period_days,
    to_json,
)

EPOCH = date(1970, 1, 1)


@pytest.mark.parametrize(
    ("given", "nano", "text"),
    [
        ("250", 250 * 10**9, "250.00"),
        ("0.1", 10**8, "0.10"),
        ("0.000000001", 1, "0.000000001"),
        ("1000000", 10**15, "1000000.00"),
        ("12.345", 12_345_000_000, "12.345"),
    ],
)
def test_amount_of_a_cost_is_exact(given: str, nano: int, text: str) -> None:
    assert amount_of("cost", given) == nano
    assert amount_text("cost", nano) == text
    assert amount_of("cost", text) == nano


@pytest.mark.parametrize(
    ("unit", "given"),
    [
        *(("cost", each) for each in ("0", "-1", "1e3", "1.0000000001", "1000000.01", "", "NaN", "٣", "1.")),
        *(("tokens", each) for each in ("0", "-1", "1.5", "1000000000001", "٣")),
    ],
)
def test_amount_of_an_invalid_text_is_refused(unit: str, given: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        amount_of(unit, given)  # type: ignore[arg-type]


def test_period_days_are_those_of_the_calendar() -> None:
    """Compared with the standard library's calendar over sixty years."""
    for number in range(0, 60 * 366, 5):
        when = EPOCH + timedelta(days=number)
        assert list(period_days("day", number)) == [number]
        week = [EPOCH + timedelta(days=each) for each in period_days("week", number)]
        assert {each.isocalendar()[:2] for each in week} == {when.isocalendar()[:2]}
        assert len(week) == 7
        month = [EPOCH + timedelta(days=each) for each in period_days("month", number)]
        assert (month[0].day, when in month) == (1, True)
        assert {(each.year, each.month) for each in month} == {(when.year, when.month)}
        assert (month[-1] + timedelta(days=1)).day == 1


def test_budgets_of_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="two budgets tokens/day"):
        budgets_of([Budget("tokens", "day", 5), Budget("tokens", "day", 6)])
    with pytest.raises(ValueError, match="above its hard"):
        budgets_of([Budget("tokens", "day", 5, 6)])


def test_changed_budgets_change_one_limit_and_keep_the_others() -> None:
    before = budgets_of([Budget("tokens", "day", 5, 4), Budget("cost", "month", 9)])
    after = changed_budgets(before, {("tokens", "day"): 7, ("cost", "month"): None}, {("tokens", "week"): 3})
    assert after == (Budget("tokens", "day", 7, 4), Budget("tokens", "week", None, 3))
    assert from_json(to_json(after)) == after
    assert to_json(()) is None
