"""Conditions on rows of keys, and the version that counts changes of keys and teams."""

from sqlalchemy import ColumnElement, Connection, and_, or_, update

from serval.store.tables import api_keys, key_store


def not_revoked(now: int) -> ColumnElement[bool]:
    """The key is not revoked at `now`, Unix time in seconds."""
    return or_(api_keys.c.revoked_at.is_(None), api_keys.c.revoked_at > now)


def live(now: int) -> ColumnElement[bool]:
    """The key is neither revoked nor expired at `now`; see `KeyRecord.is_live`."""
    return and_(not_revoked(now), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now))


def count_change(connection: Connection) -> None:
    """Increase the version by which readers notice a change."""
    connection.execute(update(key_store).values(version=key_store.c.version + 1))
