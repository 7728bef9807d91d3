"""Backup and restore of the key database by the commands of deploy/backup.md, while a gateway uses it."""

import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from serval.auth.directory import KeyDirectory
from serval.cli import main
from serval.errors import AuthenticationError, SettingsError
from serval.store.database import open_database
from serval.store.key_store import KeyStore
from serval_testkit.operator_tools import ROOT
from serval_testkit.postgres import make_database, postgres_programs, running_postgres

PAGE = (ROOT / "deploy/backup.md").read_text()
MIGRATIONS = ROOT / "server/serval/store/migrations/versions"
SQLITE = ROOT / "deploy/backup/sqlite_keys.py"


def command_of(program: str) -> list[str]:
    """Words of the page's command from `program` on, without redirections."""
    (line,) = re.findall(rf"^.*\b{re.escape(program)}\b.*$", PAGE, re.MULTILINE)
    words = shlex.split(re.split(r" [<>] ", line)[0])
    return words[next(place for place, word in enumerate(words) if word.endswith(program)) :]


def is_accepted(directory: KeyDirectory, key: str) -> bool:
    """True if a gateway accepts the key after it reads the database again."""
    directory.refresh()
    try:
        directory.identify(key)
    except AuthenticationError:
        return False
    return True


def lose_and_restore(location: str, backup: Callable[[], object], restore: Callable[[], object]) -> None:
    """Check that a restore undoes a later revocation and a later key, without a restart of the gateway."""
    store = KeyStore(open_database(location), pepper=None)
    gateway = KeyDirectory(KeyStore(open_database(location), pepper=None), poll_s=0.1, max_stale_s=600.0)
    old, old_key = store.create(name="old", scopes=["inference"], models=None, expires_in_s=None)
    backup()
    store.revoke(old.id)
    _, new_key = store.create(name="new", scopes=["inference"], models=None, expires_in_s=None)
    assert [is_accepted(gateway, key) for key in (old_key, new_key)] == [False, True]
    restore()
    assert [is_accepted(gateway, key) for key in (old_key, new_key)] == [True, False]
    # Changes after the restore are seen too.
    store.revoke(old.id)
    assert not is_accepted(gateway, old_key)


def run_sqlite(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SQLITE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_sqlite_backup_is_restored_while_a_gateway_runs(tmp_path: Path) -> None:
    database, backup = tmp_path / "keys.db", tmp_path / "keys-backup.db"
    words = re.findall(r"^python3 deploy/backup/sqlite_keys.py (\w+) \S+ \S+$", PAGE, re.MULTILINE)
    assert words == ["backup", "restore"]

    def run(*arguments: str | Path) -> None:
        done = run_sqlite(*arguments)
        assert done.returncode == 0, done.stderr

    lose_and_restore(
        str(database),
        backup=lambda: run("backup", database, backup),
        restore=lambda: run("restore", backup, database),
    )
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600


def test_sqlite_refuses_to_overwrite_data(tmp_path: Path) -> None:
    database, other = tmp_path / "keys.db", tmp_path / "other.db"
    open_database(str(database))
    other.write_bytes(b"no database at all")
    assert "exists" in run_sqlite("backup", database, other).stderr
    assert "is no key database" in run_sqlite("restore", other, database).stderr
    assert "does not exist" in run_sqlite("restore", tmp_path / "none.db", database).stderr
    assert KeyStore(open_database(str(database)), pepper=None).version() >= 0


def test_postgresql_backup_is_restored_while_a_gateway_runs(tmp_path: Path) -> None:
    dump = tmp_path / "keys.dump"
    with running_postgres() as server:
        location = make_database(server, "serval")
        socket = location.rpartition("host=")[2]

        def run(program: str, given: bytes = b"") -> bytes:
            _, *arguments = command_of(program)
            command = [postgres_programs() / program, f"--host={socket}", *arguments]
            done = subprocess.run(command, input=given, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode()
            return done.stdout

        lose_and_restore(
            location,
            backup=lambda: dump.write_bytes(run("pg_dump")),
            restore=lambda: run("pg_restore", dump.read_bytes()),
        )


def test_older_release_refuses_a_newer_schema(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.db")
    with open_database(database).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'of-the-future'"))
    with pytest.raises(SettingsError, match="of-the-future"):
        open_database(database)


def test_backup_page_names_every_schema_and_its_downgrade_works(tmp_path: Path) -> None:
    revisions = re.findall(r"^\| (\d{4}) \|", PAGE, re.MULTILINE)
    assert revisions == sorted(path.name[:4] for path in MIGRATIONS.glob("0*.py"))
    # The documented downgrade command works.
    open_database(str(tmp_path / "keys.db")).dispose()
    (words,) = re.findall(r"^serval (keys downgrade --to \d{4})$", PAGE, re.MULTILINE)
    assert main([*words.split(), f"--database={tmp_path / 'keys.db'}"]) == 0
