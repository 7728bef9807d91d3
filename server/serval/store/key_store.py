"""API keys in the database: created, listed, rotated and revoked. Only hashes of the keys are stored."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, Row, case, insert, select, update
from sqlalchemy.exc import IntegrityError

from serval.caller.budgets import Budget, Budgets, budgets_of, from_json, to_json
from serval.caller.limits import DEFAULT_LIMITS, LIMIT_NAMES, KeyLimits
from serval.errors import DeadKeyError, SettingsError, UnknownKeyError
from serval.store.database import transaction
from serval.store.key_rows import count_change, live, not_revoked
from serval.store.tables import api_keys, key_store
from serval.store.teams import lock_team

PREFIX = "sk-serval-"
# For a team that does not change; None is no team.
KEEP: Final = ""
_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class KeyRecord:
    """The stored record of a key. Times are Unix time in seconds; `models` None: all."""

    id: str
    digest: bytes
    name: str
    scopes: frozenset[str]
    models: frozenset[str] | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    limits: KeyLimits
    # Id of the key's team.
    team: str | None = None
    budgets: Budgets = ()

    def is_live(self, now: float) -> bool:
        """True if the key is neither revoked nor expired."""
        return (self.revoked_at is None or self.revoked_at > now) and (
            self.expires_at is None or self.expires_at > now
        )

    def as_object(self) -> dict[str, Any]:
        """The record as people and programs read it, without the digest."""
        return {
            "id": self.id,
            "name": self.name,
            "scopes": sorted(self.scopes),
            "models": None if self.models is None else sorted(self.models),
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
            "limits": self.limits.as_object(),
            "team": self.team,
            "budgets": [budget.as_object() for budget in self.budgets],
        }


def public_id(key: str) -> str | None:
    """The public id in a key; None if the key does not have this form."""
    if not key.startswith(PREFIX):
        return None
    found, dash, secret = key[len(PREFIX) :].partition("-")
    return found if dash and secret else None


class KeyStore:
    """The keys of one database. Safe to use from several threads and processes."""

    def __init__(
        self, engine: Engine, *, pepper: str | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """`pepper` is the key of the digests; None: a random one, stored in the database.

        Raises `SettingsError` if the database's keys were made with another pepper.
        """
        self.engine = engine
        self._now = now
        # Copied for each key: creating an HMAC takes longer than the rest of a check.
        self._keyed = hmac.new(
            self._settle_pepper(None if pepper is None else pepper.encode()), digestmod=hashlib.sha256
        )

    def digest(self, key: str) -> bytes:
        """The stored digest of `key`."""
        keyed = self._keyed.copy()
        keyed.update(key.encode("utf-8", "surrogateescape"))
        return keyed.digest()

    def derived_secret(self, purpose: str) -> bytes:
        """A secret of 32 bytes for another purpose than keys, the same wherever the pepper is."""
        # No key has this form, so it is no key's digest.
        return self.digest(f"serval secret for {purpose}")

    def version(self) -> int:
        """The version of the keys, which increases with every change."""
        with self.engine.connect() as connection:
            return int(connection.execute(select(key_store.c.version)).scalar_one())

    def load(self) -> tuple[int, list[KeyRecord]]:
        """The version and all keys, in the order of their creation."""
        with self.engine.connect() as connection:
            # The version first: a change in between is then noticed at the next poll.
            version = int(connection.execute(select(key_store.c.version)).scalar_one())
            rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)).all()
        return version, [_record(row) for row in rows]

    def create(
        self,
        *,
        name: str,
        scopes: Sequence[str],
        models: Sequence[str] | None = None,
        expires_in_s: int | None = None,
        limits: KeyLimits = DEFAULT_LIMITS,
        team: str | None = None,
        budgets: Sequence[Budget] = (),
    ) -> tuple[KeyRecord, str]:
        """Create a key; return its record, and the key itself, which cannot be shown again.

        `name` and `models` must be printable: they are shown in terminals. Raises `UnknownTeamError`, or
        `ValueError` for budgets that contradict each other.
        """
        with transaction(self.engine) as connection:
            if team is not None:
                lock_team(connection, team)
            return self._insert(
                connection,
                name=name,
                scopes=scopes,
                models=models,
                expires_in_s=expires_in_s,
                limits=limits,
                team=team,
                budgets=budgets_of(budgets),
            )

    def update(
        self,
        key_id: str,
        *,
        limits: Mapping[str, int | None] | None = None,
        budgets: Callable[[Budgets], Budgets] | None = None,
        team: str | None = KEEP,
    ) -> KeyRecord:
        """Change some limits by name, the budgets to what `budgets` makes of them, and the team.

        `team` None: none. Raises `UnknownKeyError`, `UnknownTeamError`, and what `budgets` raises.
        """
        with transaction(self.engine) as connection:
            if team:
                lock_team(connection, team)
            if budgets is not None:
                # Locks the row: this value depends on the one before.
                mine = update(api_keys).where(api_keys.c.id == _find(connection, key_id).id)
                connection.execute(mine.values(id=key_id))
            key = _find(connection, key_id)
            changed = key.limits.changed(**limits or {}) != key.limits
            # Only these, so that a change of another limit at the same time is not lost.
            changes: dict[str, Any] = dict(limits or {}) if changed else {}
            if budgets is not None:
                changes["budgets"] = to_json(budgets(key.budgets))
            if team != KEEP:
                changes["team"] = team
            if changes:
                connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(changes))
                count_change(connection)
            return _find(connection, key_id)

    def rotate(self, key_id: str, *, grace_s: int = 0) -> tuple[KeyRecord, str]:
        """Create a key in place of `key_id`, which is accepted for `grace_s` more.

        The new key has the old one's limits and budgets, with nothing used yet; its team's use goes on.
        Raises `UnknownKeyError`, or `DeadKeyError` if the old key is revoked or has expired.
        """
        now = int(self._now())
        with transaction(self.engine) as connection:
            old = _find(connection, key_id)
            # First, as it locks the row: a key that is being revoked has no successor.
            if not self._end(connection, key_id, live(now), at=now + grace_s):
                raise DeadKeyError(
                    f"the key {key_id} is revoked or has expired, so it cannot be replaced; create a new key"
                )
            return self._insert(
                connection,
                name=old.name,
                scopes=sorted(old.scopes),
                models=None if old.models is None else sorted(old.models),
                expires_in_s=None if old.expires_at is None else old.expires_at - now,
                limits=old.limits,
                team=old.team,
                budgets=old.budgets,
            )

    def revoke(self, key_id: str) -> KeyRecord:
        """Refuse the key from now on. Raises `UnknownKeyError`."""
        now = int(self._now())
        with transaction(self.engine) as connection:
            _find(connection, key_id)
            self._end(connection, key_id, not_revoked(now), at=now)
            return _find(connection, key_id)

    def _insert(
        self,
        connection: Connection,
        *,
        name: str,
        scopes: Sequence[str],
        models: Sequence[str] | None,
        expires_in_s: int | None,
        limits: KeyLimits,
        team: str | None,
        budgets: Budgets,
    ) -> tuple[KeyRecord, str]:
        key_id = secrets.token_hex(6)
        key = f"{PREFIX}{key_id}-{secrets.token_hex(20)}"
        now = int(self._now())
        values = {
            "id": key_id,
            "digest": self.digest(key),
            "name": name,
            "scopes": " ".join(sorted(set(scopes))),
            "models": None if models is None else " ".join(sorted(set(models))),
            "created_at": now,
            "expires_at": None if expires_in_s is None else now + expires_in_s,
            **asdict(limits),
            "team": team,
            "budgets": to_json(budgets),
        }
        connection.execute(insert(api_keys).values(values))
        count_change(connection)
        return _find(connection, key_id), key

    def _end(self, connection: Connection, key_id: str, condition: ColumnElement[bool], *, at: int) -> bool:
        """Revoke the key at `at`, or earlier if it already is. False if it does not meet the condition."""
        revoked_at = case((not_revoked(at), at), else_=api_keys.c.revoked_at)
        ending = update(api_keys).where(api_keys.c.id == key_id, condition).values(revoked_at=revoked_at)
        ended = connection.execute(ending).rowcount > 0
        if ended:
            count_change(connection)
        return ended

    def _settle_pepper(self, given: bytes | None) -> bytes:
        made = secrets.token_bytes(32)
        pepper = given or made
        row = {
            "id": 1,
            "version": 0,
            "pepper": None if given else made,
            "pepper_check": _digest(pepper, "serval"),
        }
        try:
            with self.engine.begin() as connection:
                if connection.execute(select(key_store.c.id)).first() is None:
                    connection.execute(insert(key_store).values(row))
        except IntegrityError:
            pass  # Another process was first; its pepper is used.
        with self.engine.connect() as connection:
            stored = connection.execute(select(key_store)).one()
        if given is None and stored.pepper is None:
            raise SettingsError("the key database's keys were made with SERVAL_KEY_PEPPER; set it as it was")
        pepper = given or bytes(stored.pepper)
        if not hmac.compare_digest(_digest(pepper, "serval"), bytes(stored.pepper_check)):
            raise SettingsError(
                "SERVAL_KEY_PEPPER is not what the key database's keys were made with; set it as it was, or"
                " unset it if it was not set then"
            )
        return pepper


def _digest(pepper: bytes, key: str) -> bytes:
    return hmac.digest(pepper, key.encode("utf-8", "surrogateescape"), hashlib.sha256)


def _find(connection: Connection, key_id: str) -> KeyRecord:
    # Not every text can be a parameter: PostgreSQL refuses NUL.
    query = select(api_keys).where(api_keys.c.id == key_id)
    row = connection.execute(query).first() if _ID.fullmatch(key_id) else None
    if row is None:
        raise UnknownKeyError(
            f"no key has the public id {key_id[:64]!r}; `serval keys list` shows the ids there are"
        )
    return _record(row)


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        digest=bytes(row.digest),
        name=row.name,
        scopes=frozenset(row.scopes.split()),
        models=None if row.models is None else frozenset(row.models.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        limits=KeyLimits(**{name: getattr(row, name) for name in LIMIT_NAMES}),
        team=row.team,
        budgets=from_json(row.budgets),
    )
