"""Use of tokens by key and day, in the database."""

from collections.abc import Mapping

from sqlalchemy import Engine, select, text

from serval.store.database import transaction
from serval.store.tables import daily_tokens

_ADD = text(
    "INSERT INTO daily_tokens (subject, day, tokens) VALUES (:subject, :day, :tokens)"
    " ON CONFLICT (subject, day) DO UPDATE SET tokens = daily_tokens.tokens + excluded.tokens"
    " RETURNING tokens"
)


class DailyTokens:
    """The table. Safe to use from several threads and processes; days are counted from 1970."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self, first: int, last: int) -> dict[tuple[str, int], int]:
        """Tokens used from day `first` to day `last`, by subject and day."""
        query = select(daily_tokens).where(daily_tokens.c.day.between(first, last))
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return {(row.subject, row.day): row.tokens for row in rows}

    def increment(self, use: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """Add `use` to the stored totals, all or nothing; return the new totals."""
        totals = {}
        with transaction(self._engine) as connection:
            # Sorted, so that processes cannot deadlock: PostgreSQL locks row by row.
            for subject, day in sorted(use):
                values = {"subject": subject, "day": day, "tokens": use[subject, day]}
                totals[subject, day] = int(connection.execute(_ADD, values).scalar_one())
        return totals
