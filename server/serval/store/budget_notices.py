"""Soft limits of budgets that were reported, in the database: each is once in its period."""

from typing import Final

from sqlalchemy import Engine, delete, insert
from sqlalchemy.exc import IntegrityError

from serval.caller.budgets import Budget, period_days
from serval.store.database import transaction
from serval.store.tables import budget_notices

# Days that a notice is kept from the beginning of its period: the longest one, and a clock that is set.
_KEPT_DAYS: Final = 40


class BudgetNotices:
    """The table. Safe to use from several threads and processes. Raises SQLAlchemy's errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def claim(self, subject: str, budget: Budget, today: int) -> bool:
        """Return True for the first call with this subject and budget in the period of day `today`."""
        values = {
            "subject": subject,
            "unit": budget.unit,
            "period": budget.period,
            "day": period_days(budget.period, today).start,
        }
        try:
            with transaction(self._engine) as connection:
                connection.execute(insert(budget_notices).values(values))
                connection.execute(delete(budget_notices).where(budget_notices.c.day < today - _KEPT_DAYS))
        except IntegrityError:
            return False
        return True
