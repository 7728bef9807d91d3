"""Teams: keys that share limits and budgets, beside those that each key has of its own."""

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, insert, select, update

from serval.caller.budgets import Budget, Budgets, budgets_of, from_json, to_json
from serval.caller.limits import DEFAULT_LIMITS, LIMIT_NAMES, KeyLimits
from serval.errors import TeamHasKeysError, UnknownTeamError
from serval.store.database import transaction
from serval.store.key_rows import count_change, live
from serval.store.tables import api_keys, teams

_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class TeamRecord:
    """The stored record of a team. `created_at` is Unix time in seconds; a limit None limits nothing."""

    id: str
    name: str
    created_at: int
    limits: KeyLimits
    budgets: Budgets

    def as_object(self) -> dict[str, Any]:
        """The record as people and programs read it."""
        limits = {name: value or "unlimited" for name, value in asdict(self.limits).items()}
        return {
            "id": self.id,
            "name": self.name,
            "created_at": self.created_at,
            "limits": limits,
            "budgets": [budget.as_object() for budget in self.budgets],
        }


class TeamStore:
    """The teams of one database. Safe to use from several threads and processes."""

    def __init__(self, engine: Engine, *, now: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = now

    def load(self) -> list[TeamRecord]:
        """All teams, in the order of their creation."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(teams).order_by(teams.c.created_at, teams.c.id)).all()
        return [_record(row) for row in rows]

    def create(
        self, *, name: str, limits: KeyLimits = DEFAULT_LIMITS, budgets: Sequence[Budget] = ()
    ) -> TeamRecord:
        """Create a team. `name` must be printable. Raises `ValueError` for contradictory budgets."""
        values = {
            "id": secrets.token_hex(6),
            "name": name,
            "created_at": int(self._now()),
            **asdict(limits),
            "budgets": to_json(budgets_of(budgets)),
        }
        with transaction(self._engine) as connection:
            connection.execute(insert(teams).values(values))
            count_change(connection)
            return lock_team(connection, values["id"])

    def update(
        self,
        team_id: str,
        *,
        name: str | None = None,
        limits: Mapping[str, int | None] | None = None,
        budgets: Callable[[Budgets], Budgets] | None = None,
    ) -> TeamRecord:
        """Change the name, some limits by name, and the budgets to what `budgets` makes of them.

        Raises `UnknownTeamError`, and what `budgets` raises.
        """
        with transaction(self._engine) as connection:
            team = lock_team(connection, team_id)
            changes: dict[str, Any] = dict(limits or {})
            if name is not None:
                changes["name"] = name
            if budgets is not None:
                changes["budgets"] = to_json(budgets(team.budgets))
            if changes:
                connection.execute(update(teams).where(teams.c.id == team_id).values(changes))
                count_change(connection)
            return lock_team(connection, team_id)

    def delete(self, team_id: str) -> TeamRecord:
        """Delete a team. Raises `UnknownTeamError`, or `TeamHasKeysError` while it has keys that live.

        Usage keeps its id.
        """
        now = int(self._now())
        with transaction(self._engine) as connection:
            team = lock_team(connection, team_id)
            found = select(api_keys.c.id).where(api_keys.c.team == team_id, live(now))
            keys = connection.execute(found.order_by(api_keys.c.id)).scalars().all()
            if keys:
                raise TeamHasKeysError(
                    f"the team {team_id} has {len(keys)} keys, such as {keys[0]}: without it they would lose"
                    " its limits; give them another team or revoke them first"
                )
            connection.execute(delete(teams).where(teams.c.id == team_id))
            count_change(connection)
            return team


def lock_team(connection: Connection, team_id: str) -> TeamRecord:
    """Return the team, which others cannot change until the transaction ends. Raises `UnknownTeamError`."""
    row = None
    # Not every text can be a parameter: PostgreSQL refuses NUL.
    if _ID.fullmatch(team_id):
        here = teams.c.id == team_id
        # An update without a change locks the row, and in SQLite the database.
        connection.execute(update(teams).where(here).values(id=team_id))
        row = connection.execute(select(teams).where(here)).first()
    if row is None:
        raise UnknownTeamError(
            f"no team has the id {team_id[:64]!r}; `serval teams list` shows the ids there are"
        )
    return _record(row)


def _record(row: Row[Any]) -> TeamRecord:
    return TeamRecord(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        limits=KeyLimits(**{name: getattr(row, name) for name in LIMIT_NAMES}),
        budgets=from_json(row.budgets),
    )
