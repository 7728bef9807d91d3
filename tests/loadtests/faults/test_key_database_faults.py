"""Failures of the key database: while it is away, slow or read-only, known keys stay valid for a time."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from serval_load.client import Peer, exchange, prepared
from serval_load.programs import process_tree
from serval_testkit.load_stack import KEY, LoadStack, load_stack, status_and_body
from serval_testkit.postgres import make_database, running_postgres
from serval_testkit.recovery import Recoveries
from serval_testkit.slow_link import SlowLink

MAX_STALE_S = 4.0
# Delay of each way; a query of the gateway takes several.
SLOW_S = 0.3
# Tokens per day, enough for about ten requests.
BUDGET = 300


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_postgres() as url:
        yield url


def keys(database: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serval", "keys", arguments[0], f"--database={database}", *arguments[1:]]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def new_key(database: str) -> str:
    made = keys(database, "create", "--name=load")
    assert made.returncode == 0, made.stderr
    return next(line for line in made.stdout.splitlines() if line.startswith("sk-"))


async def status(stack: LoadStack, key: str) -> int:
    body = b'{"model":"stand-in","max_tokens":2,"messages":[{"role":"user","content":"?"}]}'
    peer = Peer(stack.peer.host, stack.peer.port, key)
    return int((await exchange(peer, prepared(peer, body))).data.split(b" ", 2)[1])


async def until(stack: LoadStack, key: str, wanted: int) -> None:
    """Wait until `key` gets the status `wanted`."""
    async with asyncio.timeout(60):
        while await status(stack, key) != wanted:  # noqa: ASYNC110  # the requests are the test
            await asyncio.sleep(0.05)


def postmasters(server: str) -> list[int]:
    """Server process and its children, found through the folder in the URL."""
    folder = server.rpartition("host=")[2]
    first = int((Path(folder) / "data/postmaster.pid").read_text().split()[0])
    return process_tree(first)


async def test_frozen_database_leaves_known_keys_valid_until_stale(server: str, recovery: Recoveries) -> None:
    database = make_database(server, "frozen")
    key = await asyncio.to_thread(new_key, database)
    settings = {"SERVAL_KEY_DATABASE": database, "SERVAL_KEY_MAX_STALE_S": str(MAX_STALE_S)}
    async with load_stack(settings=settings) as stack:
        await until(stack, key, 200)
        stream = asyncio.create_task(stack.ask(tokens=1000))
        await stack.generating(1)
        pids = postmasters(server)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            # Known keys are valid up to the allowed staleness, and the operator's own key always.
            assert await status(stack, key) == 200
            await until(stack, key, 503)
            assert await status(stack, KEY) == 200
            assert (await stream).complete
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        with recovery("PostgreSQL frozen until its keys were refused, goes on: they are good"):
            await until(stack, key, 200)
        await stack.all_free()


async def test_restarted_database_is_read_again_with_its_new_keys(server: str, recovery: Recoveries) -> None:
    database = make_database(server, "cut")
    key = await asyncio.to_thread(new_key, database)
    async with load_stack(settings={"SERVAL_KEY_DATABASE": database}) as stack:
        await until(stack, key, 200)
        with psycopg.connect(server.format(database="postgres"), autocommit=True) as admin:
            # Cut all connections of the gateway and refuse new ones.
            admin.execute('ALTER DATABASE "cut" ALLOW_CONNECTIONS false')
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cut'")
            assert await status(stack, key) == 200
            admin.execute('ALTER DATABASE "cut" ALLOW_CONNECTIONS true')
        other = await asyncio.to_thread(new_key, database)
        with recovery("PostgreSQL cut all connections: a key made since is good"):
            await until(stack, other, 200)
        await stack.all_free()


async def test_lost_database_file_leaves_known_keys_valid_until_stale(tmp_path: Path) -> None:
    file = tmp_path / "keys.db"
    key = await asyncio.to_thread(new_key, str(file))
    settings = {"SERVAL_KEY_DATABASE": str(file), "SERVAL_KEY_MAX_STALE_S": str(MAX_STALE_S)}
    async with load_stack(settings=settings) as stack:
        await until(stack, key, 200)
        file.write_bytes(b"this is no database" * 100)
        assert await status(stack, key) == 200
        await until(stack, key, 503)
        assert await status(stack, KEY) == 200
        await stack.all_free()


async def test_slow_database_delays_changes_but_no_request(server: str, recovery: Recoveries) -> None:
    database = make_database(server, "slow")
    key, revoked = [await asyncio.to_thread(new_key, database) for _ in range(2)]
    folder = database.rpartition("host=")[2]
    link = SlowLink(Path(folder) / ".s.PGSQL.5432")
    with tempfile.TemporaryDirectory(prefix="serval-link-") as near:
        settings = {"SERVAL_KEY_DATABASE": database.replace(folder, near), "SERVAL_TOKENS_PER_DAY": "1000000"}
        async with link.at(Path(near) / ".s.PGSQL.5432"), load_stack(settings=settings) as stack:
            await until(stack, revoked, 200)
            link.delay_s = SLOW_S
            assert await asyncio.gather(*(status(stack, key) for _ in range(16))) == [200] * 16
            public = revoked.removeprefix("sk-serval-").partition("-")[0]
            assert (await asyncio.to_thread(keys, database, "revoke", public)).returncode == 0
            with recovery(f"PostgreSQL takes {SLOW_S} s each way: a revoked key is refused"):
                await until(stack, revoked, 401)
            assert await status(stack, key) == 200
            await stack.all_free()
            link.delay_s = 0.0


async def spend(stack: LoadStack, key: str) -> int | None:
    """Send a request; return its tokens, or None if the daily budget refuses it."""
    peer = Peer(stack.peer.host, stack.peer.port, key)
    told, body = status_and_body(await exchange(peer, stack.request(stream=False, peer=peer)))
    if told == 429:
        assert body["error"]["code"] == "insufficient_quota"
        return None
    assert told == 200, body
    return int(body["usage"]["total_tokens"])


async def until_saved(saved: Callable[[], int], used: int) -> None:
    async with asyncio.timeout(60):
        while await asyncio.to_thread(saved) != used:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.05)


async def spend_all(stack: LoadStack, key: str) -> int:
    """Use up the daily budget; return the tokens used."""
    used = 0
    while (tokens := await spend(stack, key)) is not None:
        used += tokens
    assert BUDGET - used < 50, "it is refused because the budget is used, not before"
    # Longer than the interval of saving.
    await asyncio.sleep(2)
    return used


async def test_read_only_database_serves_keys_and_goes_on_counting_their_day(
    server: str, recovery: Recoveries
) -> None:
    database = make_database(server, "readonly")
    key = await asyncio.to_thread(new_key, database)

    def read_only(now: str) -> None:
        with psycopg.connect(server.format(database="postgres"), autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "readonly" SET default_transaction_read_only = {now}')  # type: ignore[call-overload]
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'readonly'")

    def saved() -> int:
        with psycopg.connect(database) as connection:
            row = connection.execute("SELECT coalesce(sum(tokens), 0) FROM daily_tokens").fetchone()
            return 0 if row is None else int(row[0])

    read_only("on")
    settings = {"SERVAL_KEY_DATABASE": database, "SERVAL_TOKENS_PER_DAY": str(BUDGET)}
    async with load_stack(settings=settings) as stack:
        used = await spend_all(stack, key)
        assert await asyncio.to_thread(saved) == 0
        refused = await asyncio.to_thread(keys, database, "create", "--name=no")
        assert refused.returncode != 0
        assert "read-only" in refused.stderr
        assert "Traceback" not in refused.stderr
        read_only("off")
        with recovery("PostgreSQL was read-only: the day's tokens are saved"):
            await until_saved(saved, used)
        await stack.all_free()


async def test_full_disk_delays_saving_the_day_and_loses_no_tokens(
    tmp_path: Path, recovery: Recoveries
) -> None:
    file = tmp_path / "keys.db"
    key = await asyncio.to_thread(new_key, str(file))

    def saved() -> int:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            row = connection.execute("SELECT coalesce(sum(tokens), 0) FROM daily_tokens").fetchone()
            return int(row[0])

    settings = {"SERVAL_KEY_DATABASE": str(file), "SERVAL_TOKENS_PER_DAY": str(BUDGET)}
    async with load_stack(settings=settings) as stack:

        def largest_file(size: int) -> None:
            # With a limit of 0 every write of the gateway fails, as on a full disk.
            _, most = resource.prlimit(stack.gateway.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(stack.gateway.pid, resource.RLIMIT_FSIZE, (size, most))

        largest_file(0)
        used = await spend_all(stack, key)
        assert await asyncio.to_thread(saved) == 0
        largest_file(resource.RLIM_INFINITY)
        with recovery("disk was full: the day's tokens are saved"):
            await until_saved(saved, used)
        await stack.all_free()
