"""The key database goes away, is slow or takes no writes: known keys stay good for a while."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from serval_load.client import Peer, exchange, prepared
from serval_load.processes import family
from serval_testkit.load_stack import KEY, LoadStack, load_stack
from serval_testkit.postgres import make_database, running_postgres

MAX_STALE_S = 2.0


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
        while await status(stack, key) != wanted:  # noqa: ASYNC110  # asking is what is tested
            await asyncio.sleep(0.05)


def postmasters(server: str) -> list[int]:
    """The server's process and its children: those that name its folder."""
    folder = server.rpartition("host=")[2]
    first = int((Path(folder) / "data/postmaster.pid").read_text().split()[0])
    return family(first)


async def test_a_frozen_database_is_outlived_for_a_while_and_taken_up_again(server: str) -> None:
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
            # Known keys are good for as long as was allowed, and the operator's own key always.
            assert await status(stack, key) == 200
            await until(stack, key, 503)
            assert await status(stack, KEY) == 200
            assert (await stream).complete
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        await until(stack, key, 200)
        await stack.all_free()


async def test_a_database_that_restarts_is_found_again_with_new_keys_in_it(server: str) -> None:
    database = make_database(server, "cut")
    key = await asyncio.to_thread(new_key, database)
    async with load_stack(settings={"SERVAL_KEY_DATABASE": database}) as stack:
        await until(stack, key, 200)
        with psycopg.connect(server.format(database="postgres"), autocommit=True) as admin:
            # All connections of the gateway are cut and it may open no others.
            admin.execute('ALTER DATABASE "cut" ALLOW_CONNECTIONS false')
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cut'")
            assert await status(stack, key) == 200
            admin.execute('ALTER DATABASE "cut" ALLOW_CONNECTIONS true')
        other = await asyncio.to_thread(new_key, database)
        await until(stack, other, 200)
        await stack.all_free()


async def test_a_read_only_database_serves_keys_and_says_why_it_makes_none(server: str) -> None:
    database = make_database(server, "readonly")
    key = await asyncio.to_thread(new_key, database)
    with psycopg.connect(server.format(database="postgres"), autocommit=True) as admin:
        admin.execute('ALTER DATABASE "readonly" SET default_transaction_read_only = on')
    async with load_stack(settings={"SERVAL_KEY_DATABASE": database}) as stack:
        await until(stack, key, 200)
        refused = await asyncio.to_thread(keys, database, "create", "--name=no")
        assert refused.returncode != 0
        assert "read-only" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert await status(stack, key) == 200
        await stack.all_free()


async def test_a_lost_database_file_is_outlived_for_a_while(tmp_path: Path) -> None:
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
