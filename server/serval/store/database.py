"""Opening the database: SQLite by path or URL, PostgreSQL by URL, brought to the newest schema."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from serval.errors import SettingsError

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_S = 5
# Any number, the same in all processes: who holds it migrates.
_MIGRATION_LOCK = 0x5E57A1


def open_database(location: str) -> Engine:
    """The database at `location`, a path (SQLite) or a URL, with the newest schema.

    Raises `SettingsError` if it cannot be used; no password is part of the message.
    """
    url = _url(location)
    try:
        if url.get_backend_name() == "sqlite":
            engine = _sqlite(url)
        else:
            timeout: dict[str, Any] = {"connect_timeout": _BUSY_TIMEOUT_S}
            engine = create_engine(url, pool_pre_ping=True, connect_args=timeout)
        _migrate(engine)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the key database needs the package {error.name!r}; install serval-llm[postgres]"
        ) from error
    except (SQLAlchemyError, CommandError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"the key database {url.render_as_string()} cannot be used: {reason}") from None
    return engine


def _url(location: str) -> URL:
    if "://" not in location:
        return URL.create("sqlite", database=location)
    try:
        url = make_url(location)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError):
        raise SettingsError("the key database's URL cannot be read; use a path or postgresql://...") from None
    if backend not in ("sqlite", "postgresql"):
        raise SettingsError(f"the key database's URL names {backend!r}; use a path or postgresql://...")
    # Of PostgreSQL's drivers, the one that is installed with serval-llm[postgres].
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise SettingsError("the key database must be a file: other processes read it too")
    path = Path(url.database)
    # Hashes of keys are nobody else's business.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # Readers do not wait for a writer.
        connection.execute("PRAGMA journal_mode=WAL")

    return engine


def _migrate(engine: Engine) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with _migration_lock(engine), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
        _check_version(connection)


def _check_version(connection: Connection) -> None:
    # Alembic says nothing if the database is newer than what it knows, as long as the revision exists.
    connection.execute(text("SELECT version, pepper, pepper_check FROM key_store"))


@contextmanager
def _migration_lock(engine: Engine) -> Iterator[None]:
    """Two processes that start together: the second waits and finds the work done."""
    if engine.dialect.name != "sqlite":
        yield
        return
    with Path(f"{engine.url.database}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
