"""Migration of a database to another schema. Imported only when needed: Alembic takes 11 MB."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import alembic.command
import alembic.config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, text

from serval.store.schema_error import UnknownSchemaError

_MIGRATIONS = Path(__file__).parent / "migrations"
# Id of the advisory lock that a migrating process holds; an arbitrary number.
_LOCK = 0x5E57A1


def upgrade(engine: Engine) -> None:
    """Run the missing migrations. Raises `UnknownSchemaError`, `OSError` or SQLAlchemy's errors."""
    _migrate(engine, lambda config: alembic.command.upgrade(config, "head"))


def downgrade(engine: Engine, revision: str) -> None:
    """Undo the migrations after `revision`. Raises as `upgrade` does."""

    def back(config: alembic.config.Config) -> None:
        known = sorted(script.revision for script in ScriptDirectory.from_config(config).walk_revisions())
        # Alembic would also accept `base`, an empty schema, and abbreviations.
        if revision not in known:
            raise CommandError(f"{revision!r} is none of its schemas: {', '.join(known)}")
        alembic.command.downgrade(config, revision)

    _migrate(engine, back)


def _migrate(engine: Engine, run: Callable[[alembic.config.Config], None]) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with _alone(engine), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        try:
            run(config)
        except CommandError as error:
            raise UnknownSchemaError(str(error)) from error


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Hold a lock on a SQLite database: a second process waits, and then finds the work done."""
    if engine.dialect.name != "sqlite":
        yield
        return
    with Path(f"{engine.url.database}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
