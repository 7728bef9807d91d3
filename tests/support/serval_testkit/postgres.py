"""A real PostgreSQL server in a temporary folder, reached over a Unix socket."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 60
_USER = "serval"


def postgres_programs() -> Path | None:
    """Return the folder with the newest `initdb`, `postgres` and `pg_dump`; None if not installed."""
    # Debian keeps them off the search path.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


@contextmanager
def running_postgres() -> Iterator[str]:
    """Yield a server's URL without a database name. Skips the test if PostgreSQL is not installed."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # The server refuses to run as root; any other user will do.
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="serval-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        initdb = [programs / "initdb", f"--pgdata={data}", f"--username={_USER}", "--auth=trust", "--no-sync"]
        made = subprocess.run(
            [*initdb, "--encoding=UTF8"], user=user, cwd=folder, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        command = [
            programs / "postgres",
            "-D",
            data,
            "-k",
            folder,
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
        ]
        with (folder / "log").open("w+b") as log:
            server = subprocess.Popen(command, user=user, cwd=folder, stdout=log, stderr=log)
            try:
                _wait_until_ready(server, folder)
                yield f"postgresql://{_USER}@/{{database}}?host={folder}"
            finally:
                # At once: writing out dozens of databases that are then deleted took most of a minute.
                server.send_signal(signal.SIGQUIT)
                server.wait(_STOP_TIMEOUT_S)


def _wait_until_ready(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(f"postgresql://{_USER}@/postgres?host={folder}", connect_timeout=5).close()
        except psycopg.OperationalError:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        else:
            return


def make_database(server_url: str, name: str) -> str:
    """Create an empty database on the server, and return its URL."""
    with psycopg.connect(server_url.format(database="postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
    return server_url.format(database=name)


def empty_database(url: str) -> None:
    """Make a database as `make_database` makes it, which has hundreds of files of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
