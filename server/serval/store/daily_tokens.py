"""Use of tokens and their cost by key or team and day, in the database."""

from collections.abc import Mapping

from sqlalchemy import Engine, select, text

from serval.caller.budgets import Used
from serval.store.database import transaction
from serval.store.tables import daily_tokens

_COLUMNS = ("tokens", "cost", "held_tokens", "held_cost")
_SUMS = ", ".join(f"{name} = daily_tokens.{name} + excluded.{name}" for name in _COLUMNS)
_ADD = text(
    f"INSERT INTO daily_tokens (subject, day, {', '.join(_COLUMNS)})"  # noqa: S608  # constants
    f" VALUES (:subject, :day, {', '.join(f':{name}' for name in _COLUMNS)})"
    f" ON CONFLICT (subject, day) DO UPDATE SET {_SUMS} RETURNING {', '.join(_COLUMNS)}"
)


class DailyTokens:
    """The table. Safe to use from several threads and processes; days are counted from 1970."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self, first: int, last: int) -> dict[tuple[str, int], Used]:
        """The use from day `first` to day `last`, by subject and day."""
        query = select(daily_tokens).where(daily_tokens.c.day.between(first, last))
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return {(row.subject, row.day): Used(*(getattr(row, name) for name in _COLUMNS)) for row in rows}

    def increment(self, use: Mapping[tuple[str, int], Used]) -> dict[tuple[str, int], Used]:
        """Add `use` to the stored totals, all or nothing; return the new totals."""
        totals = {}
        with transaction(self._engine) as connection:
            # Sorted, so that processes cannot deadlock: PostgreSQL locks row by row.
            for subject, day in sorted(use):
                values = {"subject": subject, "day": day, **use[subject, day]._asdict()}
                totals[subject, day] = Used(*connection.execute(_ADD, values).one())
        return totals
