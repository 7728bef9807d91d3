"""Connection to the database: SQLite by path or URL, PostgreSQL by URL, migrated to the newest schema."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from serval.errors import SettingsError
from serval.store.migrations import NEWEST
from serval.store.schema_error import UnknownSchemaError

_BUSY_TIMEOUT_S = 5


def open_database(location: str) -> Engine:
    """Open the database at `location`, a path (SQLite) or a URL, and migrate it to the newest schema.

    Raises `SettingsError` if it cannot be used; the message never holds a password.
    """
    return _opened(location, _bring_up_to_date)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that waits at most `_BUSY_TIMEOUT_S` for locks of others. Raises SQLAlchemy's errors."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{int(_BUSY_TIMEOUT_S * 1000)}ms'"))
        yield connection


def reason_of(error: SQLAlchemyError) -> str:
    """The database's own words, in one line without the statement and its parameters."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def downgrade_database(location: str, revision: str) -> None:
    """Migrate the schema back to that of an older release, named by its newest migration such as "0001".

    Data of later schemas is dropped. Raises `SettingsError` without having changed anything.
    """

    def back(engine: Engine) -> None:
        from serval.store.upgrade import downgrade

        downgrade(engine, revision)

    _opened(location, back).dispose()


def _opened(location: str, prepare: Callable[[Engine], None]) -> Engine:
    """Open the database at `location` and apply `prepare`. Raises `SettingsError`."""
    url = _url(location)
    try:
        if url.get_backend_name() == "sqlite":
            engine = _sqlite(url)
        else:
            timeout: dict[str, Any] = {"connect_timeout": _BUSY_TIMEOUT_S}
            engine = create_engine(url, pool_pre_ping=True, connect_args=timeout, hide_parameters=True)
        prepare(engine)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the key database needs the package {error.name!r}; install serval-llm[postgres]"
        ) from error
    except (SQLAlchemyError, UnknownSchemaError, OSError) as error:
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
    # The driver that serval-llm[postgres] installs.
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise SettingsError("the key database must be a file: other processes read it too")
    path = Path(url.database)
    if not path.parent.is_dir():
        folder = str(path.parent)
        raise FileNotFoundError(
            f"the folder {folder!r} does not exist; make it with `mkdir -p {quote(folder)}`, or choose"
            " another place with --database or SERVAL_KEY_DATABASE"
        )
    # Created readable by its owner only: it holds hashes of keys.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # Readers do not wait for a writer.
        connection.execute("PRAGMA journal_mode=WAL")

    return engine


def _bring_up_to_date(engine: Engine) -> None:
    if not _is_newest(engine):
        from serval.store.upgrade import upgrade

        upgrade(engine)
    # Alembic does not report a database newer than the code, as long as the revision exists.
    with engine.connect() as connection:
        connection.execute(text("SELECT version, pepper, pepper_check FROM key_store"))


def _is_newest(engine: Engine) -> bool:
    if not inspect(engine).has_table("alembic_version"):
        return False
    with engine.connect() as connection:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return found == [NEWEST]
