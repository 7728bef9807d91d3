"""Budgets in forms, and how much of them is used."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from serval.api.admin_types import ShownBudget
from serval.caller.budgets import PERIODS, UNITS, Period, Unit, Used, amount_of, amount_text, period_days
from serval.console.forms import Form
from serval.console.parts import Console
from serval.store.daily_tokens import DailyTokens

# Unit and period of every budget that there may be.
KINDS: Final[tuple[tuple[Unit, Period], ...]] = tuple((unit, period) for unit in UNITS for period in PERIODS)
_DAY_S: Final = 86_400
_LONGEST_DAYS: Final = 31


class BudgetField(Struct, frozen=True):
    """Two fields of a form, for the hard and the soft limit of one kind of budget."""

    name: str
    title: str
    hard: str
    soft: str


class BudgetUse(Struct, frozen=True):
    """A budget and its use, as texts; `share` is the used part of its hard limit, None without one."""

    title: str
    used: str
    hard: str
    soft: str
    share: float | None


def budget_fields(budgets: Sequence[ShownBudget], given: Form | None = None) -> list[BudgetField]:
    """Return the fields of a form that holds these budgets, or what was `given` before."""
    stored = {(each.unit, each.period): each for each in budgets}
    found = []
    for unit, period in KINDS:
        name, budget = f"{unit}-{period}", stored.get((unit, period))
        hard, soft = ("", "") if budget is None else (budget.hard or "", budget.soft or "")
        if given is not None:
            hard, soft = given.text(f"hard-{name}"), given.text(f"soft-{name}")
        found.append(BudgetField(name, f"{unit} a {period}", str(hard), str(soft)))
    return found


def given_budgets(form: Form) -> list[dict[str, Any]]:
    """Return the budgets of the form in the form of the admin API; an empty field is no limit."""
    found = []
    for unit, period in KINDS:
        limits = {side: form.text(f"{side}-{unit}-{period}") or None for side in ("hard", "soft")}
        if any(limits.values()):
            found.append({"unit": unit, "period": period} | {k: _amount(unit, v) for k, v in limits.items()})
    return found


def _amount(unit: Unit, text: str | None) -> int | str | None:
    whole = text is not None and unit == "tokens" and text.isascii() and text.isdigit() and len(text) <= 15
    return int(text) if text is not None and whole else text


async def budget_use(
    console: Console, budgets: Mapping[str, Sequence[ShownBudget]]
) -> dict[str, list[BudgetUse]]:
    """Return the use of budgets, by subject. Raises SQLAlchemy's errors.

    It is that in the database, about a second late. With Redis it is not known here, and left out.
    """
    if console.context.settings.limits_url is not None or not any(budgets.values()):
        return {}
    today = int(time.time() // _DAY_S)
    table = DailyTokens(console.directory.store.engine)
    daily: dict[str, dict[int, Used]] = {}
    for (whose, day), use in (await asyncio.to_thread(table.load, today - _LONGEST_DAYS, today)).items():
        daily.setdefault(whose, {})[day] = use
    found = {}
    for subject, each in budgets.items():
        uses = []
        for budget in each:
            days = period_days(budget.period, today)
            used = sum(
                use.tokens if budget.unit == "tokens" else use.cost
                for day, use in daily.get(subject, {}).items()
                if day in days
            )
            hard = None if budget.hard is None else amount_of(budget.unit, budget.hard)
            uses.append(
                BudgetUse(
                    title=f"{budget.unit} a {budget.period}",
                    used=amount_text(budget.unit, used),
                    hard="unlimited" if budget.hard is None else str(budget.hard),
                    soft="" if budget.soft is None else str(budget.soft),
                    share=None if hard is None else used / hard,
                )
            )
        if uses:
            found[subject] = uses
    return found
