"""Upgrades and downgrades of the key database while gateways of the other release use it."""

from typing import Any

import pytest
from sqlalchemy import Connection, Engine, bindparam, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from serval.auth.directory import KeyDirectory
from serval.errors import SettingsError
from serval.store.database import downgrade_database, open_database
from serval.store.key_store import KeyStore

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
# Statements of a release with schema 0001, with its own columns.
OLD_COLUMNS = "id, digest, name, scopes, models, created_at, expires_at, revoked_at"
OLD_INSERT = text(
    f"INSERT INTO api_keys ({OLD_COLUMNS})"  # noqa: S608  # a constant
    " VALUES ('old-release', :digest, 'b', 'inference', NULL, 1, NULL, NULL)"
).bindparams(bindparam("digest"))
OLD_VERSION = text("UPDATE key_store SET version = version + 1")


def plain(location: str) -> Engine:
    """The database without a migration."""
    url = make_url(location) if "://" in location else make_url(f"sqlite:///{location}")
    return create_engine(url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url)


def columns(connection: Connection) -> dict[tuple[str, str], dict[str, Any]]:
    looked_at = inspect(connection)
    return {
        (table, column["name"]): dict(column)
        for table in looked_at.get_table_names()
        for column in looked_at.get_columns(table)
    }


def at_every_revision(location: str) -> list[dict[tuple[str, str], dict[str, Any]]]:
    """Columns of all tables after each migration, the oldest first."""
    open_database(location).dispose()
    found = []
    for revision in reversed(REVISIONS):
        downgrade_database(location, revision)
        with plain(location).connect() as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == revision
            found.append(columns(connection))
    return found[::-1]


def test_migration_only_adds_to_the_schema(key_database: str) -> None:
    """Gateways of the old release must keep working when the first of the new one migrates."""
    older, *newer = at_every_revision(key_database)
    for schema in newer:
        for place, column in older.items():
            assert schema[place]["nullable"] == column["nullable"]
            assert str(schema[place]["type"]) == str(column["type"])
        old_tables = {table for table, _ in older}
        for (table, name), column in schema.items():
            if table in old_tables and (table, name) not in older:
                assert column["nullable"] or column["default"] is not None, (table, name)
        older = schema


def test_migration_list_of_this_test_is_complete(key_database: str) -> None:
    with open_database(key_database).connect() as connection:
        newest = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    assert newest == REVISIONS[-1]


def test_upgrade_keeps_old_gateways_working_and_shows_their_keys(key_database: str) -> None:
    open_database(key_database).dispose()
    downgrade_database(key_database, "0001")
    old_gateway = plain(key_database)
    with old_gateway.connect() as connection:
        assert connection.execute(text(f"SELECT {OLD_COLUMNS} FROM api_keys")).all() == []  # noqa: S608
    store = KeyStore(open_database(key_database), pepper=None)
    with old_gateway.begin() as connection:
        connection.execute(OLD_INSERT, {"digest": b"x"})
        connection.execute(OLD_VERSION)
    (record,) = store.load()[1]
    assert record.id == "old-release"
    store.create(name="new", scopes=["inference"])
    with old_gateway.connect() as connection:
        assert len(connection.execute(text(f"SELECT {OLD_COLUMNS} FROM api_keys")).all()) == 2  # noqa: S608


def test_downgrade_keeps_keys_and_running_gateways_working(key_database: str) -> None:
    store = KeyStore(open_database(key_database), pepper=None)
    record, key = store.create(name="a", scopes=["inference"])
    gateway = KeyDirectory(KeyStore(open_database(key_database), pepper=None), poll_s=0.1, max_stale_s=600.0)
    assert gateway.identify(key).subject
    downgrade_database(key_database, "0001")
    with plain(key_database).begin() as connection:
        (row,) = connection.execute(text(f"SELECT {OLD_COLUMNS} FROM api_keys")).all()  # noqa: S608
        assert row.id == record.id
        # A gateway of the new release cannot read the old schema, and keeps the keys that it has.
        connection.execute(OLD_VERSION)
    with pytest.raises(SQLAlchemyError):
        gateway.refresh()
    assert gateway.identify(key).subject
    # And forward again.
    assert [each.id for each in KeyStore(open_database(key_database), pepper=None).load()[1]] == [record.id]


@pytest.mark.parametrize("revision", ["0000", "base", "of-the-future", ""])
def test_downgrade_to_an_unknown_schema_changes_nothing(key_database: str, revision: str) -> None:
    store = KeyStore(open_database(key_database), pepper=None)
    record, _ = store.create(name="a", scopes=["inference"])
    with pytest.raises(SettingsError):
        downgrade_database(key_database, revision)
    assert store.load()[1] == [record]
