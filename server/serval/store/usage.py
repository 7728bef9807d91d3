"""Usage by key, model and hour, in the database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Engine, Row, delete, func, insert, select, text, update

from serval.store.database import transaction
from serval.store.tables import USAGE_COUNTS, api_keys, teams, usage, usage_writers

HOUR_S: Final = 3600


class Slot(NamedTuple):
    """Key, model and hour that counts belong to. `hour` is UTC's, counted from 1970."""

    subject: str
    model: str
    hour: int


# Counts in the order of `USAGE_COUNTS`.
Counts = Sequence[int]

_SUMS: Final = ", ".join(f"{name} = usage.{name} + excluded.{name}" for name in USAGE_COUNTS)
_COLUMNS: Final = ("subject", "model", "hour", *USAGE_COUNTS)
# The team is looked up here, so that neither a request nor a journal's line carries it.
_ADD: Final = text(
    f"INSERT INTO usage ({', '.join(_COLUMNS)}, team) VALUES ({', '.join(f':{name}' for name in _COLUMNS)},"  # noqa: S608  # constants
    " (SELECT team FROM api_keys WHERE id = :subject))"
    f" ON CONFLICT (subject, model, hour) DO UPDATE SET {_SUMS}"
)


class UsageTable:
    """The tables. Safe to use from several threads and processes. Raises SQLAlchemy's errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, writer: str, sequence: int, rows: Mapping[Slot, Counts], *, hour: int) -> bool:
        """Add a batch of `writer`, all or nothing; `hour` is the present one.

        Return False, without a change, if this batch or a later one of the writer was added before.
        """
        with transaction(self._engine) as connection:
            mine = usage_writers.c.writer == writer
            # First, as it locks the writer's row.
            later = update(usage_writers).where(mine, usage_writers.c.sequence < sequence)
            if not connection.execute(later.values(sequence=sequence, hour=hour)).rowcount:
                if connection.execute(select(usage_writers.c.writer).where(mine)).first() is not None:
                    return False
                connection.execute(insert(usage_writers).values(writer=writer, sequence=sequence, hour=hour))
            # Sorted, so that processes cannot deadlock: PostgreSQL locks row by row.
            values = [
                dict(zip(_COLUMNS, (*slot, *counts), strict=True)) for slot, counts in sorted(rows.items())
            ]
            if values:
                connection.execute(_ADD, values)
        return True

    def sums(
        self,
        by: Collection[str],
        *,
        first: int,
        end: int,
        subject: str | None = None,
        most: int,
    ) -> list[Row[Any]]:
        """The sums from hour `first` until before hour `end`, of one subject or of all.

        A row has the columns of `by` (`team`, `key`, `model`, `hour`, and `day` as its first hour) and
        `USAGE_COUNTS`; with `key` comes `name`, null for a caller without a key in the database, and with
        `team` its `team_name`. Return at most `most` rows, in the order of time, team, key and model.
        """
        groups = {
            "day": (usage.c.hour - usage.c.hour % 24).label("day"),
            "hour": usage.c.hour.label("hour"),
            "team": usage.c.team.label("team"),
            "key": usage.c.subject.label("key"),
            "model": usage.c.model.label("model"),
        }
        asked = [column for name, column in groups.items() if name in by]
        names = [func.max(api_keys.c.name).label("name")] if "key" in by else []
        names += [func.max(teams.c.name).label("team_name")] if "team" in by else []
        counts = [func.coalesce(func.sum(usage.c[name]), 0).label(name) for name in USAGE_COUNTS]
        query = (
            select(*asked, *names, *counts)
            .select_from(
                usage.outerjoin(api_keys, usage.c.subject == api_keys.c.id).outerjoin(
                    teams, usage.c.team == teams.c.id
                )
            )
            .where(usage.c.hour >= first, usage.c.hour < end)
            .limit(most)
        )
        if subject is not None:
            query = query.where(usage.c.subject == subject)
        if asked:
            query = query.group_by(*asked).order_by(*asked)
        with self._engine.connect() as connection:
            return list(connection.execute(query).all())

    def forget(self, before: int) -> None:
        """Delete the usage of the hours before hour `before`, and writers without a batch since."""
        with transaction(self._engine) as connection:
            connection.execute(delete(usage).where(usage.c.hour < before))
            connection.execute(delete(usage_writers).where(usage_writers.c.hour < before))
