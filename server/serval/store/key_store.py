"""API keys in the database: created, listed, rotated and revoked. Only hashes of the keys are stored."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, case, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from serval.caller.limits import DEFAULT_LIMITS, LIMIT_NAMES, KeyLimits
from serval.errors import DeadKeyError, SettingsError, UnknownKeyError
from serval.store.database import transaction
from serval.store.tables import api_keys, key_store

PREFIX = "sk-serval-"
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
    ) -> tuple[KeyRecord, str]:
        """Create a key; return its record, and the key itself, which cannot be shown again.

        `name` and `models` must be printable: they are shown in terminals.
        """
        with transaction(self.engine) as connection:
            return self._insert(
                connection, name=name, scopes=scopes, models=models, expires_in_s=expires_in_s, limits=limits
            )

    def update_limits(self, key_id: str, changes: Mapping[str, int | None]) -> KeyRecord:
        """Change some of the key's limits, by name. Raises `UnknownKeyError`."""
        with transaction(self.engine) as connection:
            key = _find(connection, key_id)
            if key.limits.changed(**changes) != key.limits:
                # Only these, so that a change of another limit at the same time is not lost.
                connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(dict(changes)))
                _count_change(connection)
            return _find(connection, key_id)

    def rotate(self, key_id: str, *, grace_s: int = 0) -> tuple[KeyRecord, str]:
        """Create a key in place of `key_id`, which is accepted for `grace_s` more.

        The new key has the old one's limits, with nothing used yet.
        Raises `UnknownKeyError`, or `DeadKeyError` if the old key is revoked or has expired.
        """
        now = int(self._now())
        with transaction(self.engine) as connection:
            old = _find(connection, key_id)
            # First, as it locks the row: a key that is being revoked has no successor.
            if not self._end(connection, key_id, _live(now), at=now + grace_s):
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
            )

    def revoke(self, key_id: str) -> KeyRecord:
        """Refuse the key from now on. Raises `UnknownKeyError`."""
        now = int(self._now())
        with transaction(self.engine) as connection:
            _find(connection, key_id)
            self._end(connection, key_id, _not_revoked(now), at=now)
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
        }
        connection.execute(insert(api_keys).values(values))
        _count_change(connection)
        return _find(connection, key_id), key

    def _end(self, connection: Connection, key_id: str, condition: ColumnElement[bool], *, at: int) -> bool:
        """Revoke the key at `at`, or earlier if it already is. False if it does not meet the condition."""
        revoked_at = case((_not_revoked(at), at), else_=api_keys.c.revoked_at)
        ending = update(api_keys).where(api_keys.c.id == key_id, condition).values(revoked_at=revoked_at)
        ended = connection.execute(ending).rowcount > 0
        if ended:
            _count_change(connection)
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


def _not_revoked(now: int) -> ColumnElement[bool]:
    return or_(api_keys.c.revoked_at.is_(None), api_keys.c.revoked_at > now)


def _live(now: int) -> ColumnElement[bool]:
    """See `KeyRecord.is_live`."""
    return and_(_not_revoked(now), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now))


def _count_change(connection: Connection) -> None:
    connection.execute(update(key_store).values(version=key_store.c.version + 1))


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
    )
