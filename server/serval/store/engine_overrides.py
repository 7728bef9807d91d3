"""Orders of administrators about engines, in the key database, which all gateways share."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from serval.store.database import transaction
from serval.store.tables import engine_overrides


@dataclass(frozen=True)
class StoredOverride:
    """The orders about the engine at `url`; `weight` None: as the list of engines says."""

    url: str
    weight: str | None = None
    drained: bool = False


class OverrideTable:
    """The orders of one database. Safe to use from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self) -> Sequence[StoredOverride]:
        """Return all orders, by URL. Raises SQLAlchemy's errors."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(engine_overrides).order_by(engine_overrides.c.url)).all()
        return [StoredOverride(row.url, row.weight, bool(row.drained)) for row in rows]

    def set_weight(self, url: str, weight: str | None) -> None:
        """Order a weight; None: the one in the list of engines. Raises SQLAlchemy's errors."""
        self._set(url, "weight", weight)

    def set_drained(self, url: str, *, drained: bool) -> None:
        """Order that the engine gets no requests, or gets them again. Raises SQLAlchemy's errors."""
        self._set(url, "drained", int(drained))

    def _set(self, url: str, column: str, value: str | int | None) -> None:
        # A row that is there already, perhaps of another process, is the one to change.
        with contextlib.suppress(IntegrityError), transaction(self._engine) as connection:
            connection.execute(insert(engine_overrides).values(url=url, drained=0))
        with transaction(self._engine) as connection:
            # Only this column, so that another order at the same time is not lost.
            here = engine_overrides.c.url == url
            connection.execute(update(engine_overrides).where(here).values({column: value}))
