"""Budgets: how many tokens, or what cost, a key or a team may use in a day, a week or a month.

Days are those of UTC, weeks begin on Monday, months are those of the calendar. Costs are whole numbers of
`COST_UNIT`ths of the currency in which the prices are given; people and programs write them as decimals.
"""

import re
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec
from msgspec import Struct

Unit = Literal["tokens", "cost"]
Period = Literal["day", "week", "month"]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
PERIODS: Final[tuple[Period, ...]] = get_args(Period)

# Parts of the currency that costs are counted in: a token may cost a billionth of it.
COST_UNIT: Final = 10**9
# Keep counts exact in Redis, whose scripts have doubles only (2^53 is 9 * 10^15).
MAX_TOKENS: Final = 10**12
MAX_COST: Final = 10**6 * COST_UNIT
# Most days of a period.
LONGEST_PERIOD_DAYS: Final = 31

_EPOCH: Final = date(1970, 1, 1)
_COST: Final = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?")
_TOKENS: Final = re.compile(r"[0-9]{1,13}")


class Budget(Struct, frozen=True, array_like=True, order=True):
    """A budget. Use beyond `hard` is refused, use beyond `soft` is reported; None: no such limit."""

    unit: Unit
    period: Period
    hard: int | None = None
    soft: int | None = None

    def as_object(self) -> dict[str, Any]:
        """The budget as people and programs read it: tokens are numbers, costs are decimals in strings."""
        return {
            "unit": self.unit,
            "period": self.period,
            "hard": _amount_object(self.unit, self.hard),
            "soft": _amount_object(self.unit, self.soft),
        }

    def __str__(self) -> str:
        """The budget in a line, such as `tokens/day=5000000 (soft 4000000)`."""
        hard = "unlimited" if self.hard is None else amount_text(self.unit, self.hard)
        soft = "" if self.soft is None else f" (soft {amount_text(self.unit, self.soft)})"
        return f"{self.unit}/{self.period}={hard}{soft}"


class Used(NamedTuple):
    """Tokens and their cost; `held` is the part of both that reservations hold which were not settled."""

    tokens: int = 0
    cost: int = 0
    held_tokens: int = 0
    held_cost: int = 0

    def plus(self, other: "Used") -> "Used":
        """The sum of both."""
        return Used(
            self.tokens + other.tokens,
            self.cost + other.cost,
            self.held_tokens + other.held_tokens,
            self.held_cost + other.held_cost,
        )


Budgets = tuple[Budget, ...]
_decoder: Final = msgspec.json.Decoder(tuple[Budget, ...])


def budgets_of(given: Sequence[Budget]) -> Budgets:
    """The budgets in their order, without those that limit nothing.

    Raises `ValueError` for two of one unit and period, and for a soft limit above the hard one.
    """
    seen = set()
    for budget in given:
        name = f"{budget.unit}/{budget.period}"
        if name in seen:
            raise ValueError(f"there are two budgets {name}; give one")
        seen.add(name)
        if budget.hard is not None and budget.soft is not None and budget.soft > budget.hard:
            raise ValueError(f"the soft limit of the budget {name} is above its hard limit")
    return tuple(sorted((each for each in given if each.hard or each.soft), key=_place))


def changed_budgets(
    budgets: Budgets, hard: dict[tuple[Unit, Period], int | None], soft: dict[tuple[Unit, Period], int | None]
) -> Budgets:
    """The budgets with some limits replaced; None takes a limit away. Raises `ValueError`."""
    limits = {(each.unit, each.period): [each.hard, each.soft] for each in budgets}
    for index, changes in enumerate((hard, soft)):
        for place, amount in changes.items():
            limits.setdefault(place, [None, None])[index] = amount
    return budgets_of([Budget(unit, period, *amounts) for (unit, period), amounts in limits.items()])


def to_json(budgets: Budgets) -> str | None:
    """The budgets as they are stored; None for none."""
    return msgspec.json.encode(budgets).decode() if budgets else None


def from_json(stored: str | None) -> Budgets:
    """The inverse of `to_json`."""
    return () if stored is None else _decoder.decode(stored)


def amount_of(unit: Unit, given: int | str) -> int:
    """The whole number that is counted, for an amount as people and programs write it.

    Raises `ValueError` if it is none, is zero, or is too large.
    """
    text = str(given)
    if unit == "tokens":
        if not _TOKENS.fullmatch(text) or not 1 <= int(text) <= MAX_TOKENS:
            raise ValueError(f"{text[:40]!r} is not a number of tokens from 1 to {MAX_TOKENS}")
        return int(text)
    amount = cost_of(text) if _COST.fullmatch(text) else 0
    if not 1 <= amount <= MAX_COST:
        raise ValueError(
            f"{text[:40]!r} is not a cost such as 250 or 0.05, at most {MAX_COST // COST_UNIT}, with up to 9"
            " decimals"
        )
    return amount


def cost_of(decimal: str) -> int:
    """The whole number of `COST_UNIT`ths in a decimal with at most nine places."""
    return int(Decimal(decimal).scaleb(9))


def amount_text(unit: Unit, amount: int) -> str:
    """The inverse of `amount_of`."""
    return str(amount) if unit == "tokens" else cost_text(amount)


def cost_text(cost: int) -> str:
    """A cost as a decimal, with two places or as many as it needs: `250.00`, `0.000075`."""
    whole, part = divmod(abs(cost), COST_UNIT)
    return f"{'-' if cost < 0 else ''}{whole}.{f'{part:09d}'.rstrip('0').ljust(2, '0')}"


@lru_cache(maxsize=64)
def period_days(period: Period, day: int) -> range:
    """The days, counted from 1970, of the period that `day` is in."""
    if period == "day":
        return range(day, day + 1)
    if period == "week":
        # 1970 began on a Thursday.
        first = day - (day + 3) % 7
        return range(first, first + 7)
    when = _EPOCH + timedelta(days=day)
    begin = when.replace(day=1)
    end = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
    return range((begin - _EPOCH).days, (end - _EPOCH).days)


def _place(budget: Budget) -> tuple[int, int]:
    return UNITS.index(budget.unit), PERIODS.index(budget.period)


def _amount_object(unit: Unit, amount: int | None) -> int | str | None:
    return amount if amount is None or unit == "tokens" else cost_text(amount)
