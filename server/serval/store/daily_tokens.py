"""Use of tokens and their cost by key or team and day, in the database."""

from collections.abc import Mapping

from sqlalchemy import Engine, select, text

from serval.store.database import transaction
from serval.store.tables import daily_tokens

_ADD = text(
    "INSERT INTO daily_tokens (subject, day, tokens, cost) VALUES (:subject, :day, :tokens, :cost)"
    " ON CONFLICT (subject, day) DO UPDATE SET tokens = daily_tokens.tokens + excluded.tokens,"
    " cost = daily_tokens.cost + excluded.cost RETURNING tokens, cost"
)


class DailyTokens:
    """The table. Safe to use from several threads and processes; days are counted from 1970."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self, first: int, last: int) -> dict[tuple[str, int], tuple[int, int]]:
        """Tokens used from day `first` to day `last` and their cost, by subject and day."""
        query = select(daily_tokens).where(daily_tokens.c.day.between(first, last))
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return {(row.subject, row.day): (row.tokens, row.cost) for row in rows}

    def increment(
        self, use: Mapping[tuple[str, int], tuple[int, int]]
    ) -> dict[tuple[str, int], tuple[int, int]]:
        """Add `use` to the stored totals, all or nothing; return the new totals."""
        totals = {}
        with transaction(self._engine) as connection:
            # Sorted, so that processes cannot deadlock: PostgreSQL locks row by row.
            for subject, day in sorted(use):
                tokens, cost = use[subject, day]
                values = {"subject": subject, "day": day, "tokens": tokens, "cost": cost}
                row = connection.execute(_ADD, values).one()
                totals[subject, day] = (int(row.tokens), int(row.cost))
        return totals
