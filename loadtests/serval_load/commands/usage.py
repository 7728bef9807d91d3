"""Kill gateways, workers, Redis and the database's writers at random, and compare usage with the answers.

Starts the stand-in, gateways that share a key database and a usage journal, and clients with a key each, all
of one team with budgets. At the end it compares the usage with the budgets' counts, as `serval usage verify`
does, and with the tokens that the stand-in worked on. Exit code 1 if a whole answer is missing in the usage,
or anything was counted twice.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import asdict
from pathlib import Path

import aiohttp
import uvloop

from serval.caller.budgets import MAX_COST, MAX_TOKENS, Budget
from serval.caller.identity import INFERENCE
from serval.limits.redis_limiter import open_redis
from serval.limits.redis_use import use_in_redis
from serval.store.daily_tokens import DailyTokens
from serval.store.database import open_database
from serval.store.key_store import KeyRecord, KeyStore
from serval.store.teams import TeamStore
from serval.store.usage import HOUR_S, UsageTable
from serval.usage.recorder import adopt
from serval.usage.verification import compared, usage_by_day
from serval_load.client import Peer
from serval_load.compare.systems import UNREACHED_LIMITS
from serval_load.machine import describe
from serval_load.programs import ROOMY, free_port, running_program, running_stand_in
from serval_load.progress import log
from serval_load.usage_kills import Books, Difference, Received, books, difference, killed_gateway, use

_EXAMPLE = """
example:
  python -m serval_load usage                 # ten minutes
  python -m serval_load usage --minutes 1
"""
_LOCKED_S = 3.0
_SETTLED_S = 3.0
# A day, counted from 1970, after all others.
_FAR = 10**6
# Budgets that nobody reaches, so that they are counted.
_BUDGETS = (Budget("tokens", "week", MAX_TOKENS), Budget("cost", "month", MAX_COST))
_PRICES = '["*"]\nprompt = 0.1\ncached = 0.02\ncompletion = 0.4\n'


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, help="how long the clients ask (default 10)")
    add("--gateways", type=int, default=2, help="number of gateways (default 2)")
    add("--workers", type=int, default=2, help="processes of each (default 2)")
    add("--clients", type=int, default=16, help="clients, each with a key (default 16)")
    add("--every", type=float, default=20.0, metavar="SECONDS", help="between kills (default 20)")
    add("--seed", type=int, default=0, help="of the random choices (default 0)")
    add("--redis", action="store_true", help="count limits in a Redis that is restarted (needs redis-server)")
    add("--grace", type=float, default=0.0, metavar="SECONDS",
        help="how long requests pass while Redis is away (default 0); a kill loses their count")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures there as well")


def run(args: argparse.Namespace) -> int:
    """Run the experiment and print the difference."""
    found, verified = uvloop.run(_experiment(args))
    figures = json.dumps({**asdict(found), "books": asdict(verified)}, indent=1)
    print(f"{describe()}\n{figures}")
    if args.json:
        args.json.write_text(figures + "\n")
    return int(not found.is_within_bound)


async def _experiment(args: argparse.Namespace) -> tuple[Difference, Books]:
    dice = random.Random(args.seed)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-load-")))
        database = str(folder / "keys.db")
        store = KeyStore(open_database(database))
        team = TeamStore(store.engine).create(name="clients", budgets=_BUDGETS)
        keys = [
            store.create(name=f"client-{index}", scopes=[INFERENCE], team=team.id)
            for index in range(args.clients)
        ]
        environment = _environment(folder, database)
        calm = asyncio.Event()
        if args.redis:
            environment["SERVAL_LIMITS_URL"] = f"unix://{folder}/redis.sock"
            environment["SERVAL_LIMITS_GRACE_S"] = str(args.grace)
            # A busy machine must not look like a Redis that is away.
            environment["SERVAL_LIMITS_TIMEOUT_S"] = "5"
            await stack.enter_async_context(_restarted_redis(folder, args.every, dice, calm))
        _, engine_url = await stack.enter_async_context(running_stand_in(*ROOMY))
        received = {record.id: Received() for record, _ in keys}
        await _use_killed_gateways(
            args, engine_url, environment, keys=keys, received=received, dice=dice, calm=calm
        )
        table = UsageTable(store.engine)
        # As the next gateway would do when it starts.
        await asyncio.to_thread(adopt, folder / "usage", table, int(time.time() // HOUR_S))
        rows = table.sums(("key",), first=0, end=10**7, most=10**6)
        if args.redis:
            async with open_redis(environment["SERVAL_LIMITS_URL"], timeout_s=10) as redis:
                counted = await use_in_redis(redis)
        else:
            counted = DailyTokens(store.engine).load(0, _FAR)
        comparisons = compared(usage_by_day(table, 0, _FAR), counted, [record.id for record, _ in keys])
        engine_tokens = await _engine_tokens(engine_url)
    log(f"{sum(one.refused for one in received.values())} requests were refused with an error")
    counts = {
        row.key: (int(row.requests - row.errors), int(row.prompt_tokens), int(row.completion_tokens))
        for row in rows
    }
    usage_tokens = sum(prompt + completion for _, prompt, completion in counts.values())
    return difference(received, counts), books(comparisons, usage_tokens, engine_tokens)


async def _use_killed_gateways(
    args: argparse.Namespace,
    engine_url: str,
    environment: Mapping[str, str],
    *,
    keys: Sequence[tuple[KeyRecord, str]],
    received: Mapping[str, Received],
    dice: random.Random,
    calm: asyncio.Event,
) -> None:
    """Let the clients ask for as long as `args` says, then end the gateways; `calm` is set before that."""
    stop = asyncio.Event()
    locking = asyncio.create_task(_lock_now_and_then(environment["SERVAL_KEY_DATABASE"], args.every, dice))
    ports = [free_port() for _ in range(args.gateways)]
    async with AsyncExitStack() as gateways:
        for port in ports:
            gateway = killed_gateway(
                engine_url,
                port,
                environment,
                workers=args.workers,
                every_s=args.every,
                dice=dice,
                log=log,
            )
            await gateways.enter_async_context(gateway)
        clients = [
            use([Peer("127.0.0.1", port, key) for port in ports], stop, received[record.id], dice)
            for record, key in keys
        ]
        asyncio.get_running_loop().call_later(60 * args.minutes, stop.set)
        await asyncio.gather(*clients)
        calm.set()
        locking.cancel()
        await asyncio.gather(locking, return_exceptions=True)
        # Redis is back, and has all that was sent while it was away.
        await asyncio.sleep(_SETTLED_S)


def _environment(folder: Path, database: str) -> dict[str, str]:
    (folder / "prices.toml").write_text(_PRICES)
    return {
        "SERVAL_KEY_DATABASE": database,
        "SERVAL_USAGE_JOURNAL": str(folder / "usage"),
        "SERVAL_PRICES_FILE": str(folder / "prices.toml"),
        **UNREACHED_LIMITS,
    }


async def _engine_tokens(engine_url: str) -> dict[str, int]:
    async with aiohttp.ClientSession() as session, session.get(f"{engine_url}/stand_in/tokens") as response:
        tokens: dict[str, int] = await response.json(content_type=None)
        return tokens


async def _lock_now_and_then(database: str, every_s: float, dice: random.Random) -> None:
    """Keep everybody from writing the database for a few seconds, now and then."""
    while True:
        await asyncio.sleep(every_s * dice.uniform(0.5, 1.5))
        with closing(sqlite3.connect(database, timeout=0.1)) as lock, suppress(sqlite3.OperationalError):
            lock.execute("BEGIN IMMEDIATE")
            log(f"the database is locked for {_LOCKED_S:g} s")
            await asyncio.sleep(_LOCKED_S)


@asynccontextmanager
async def _restarted_redis(
    folder: Path, every_s: float, dice: random.Random, calm: asyncio.Event
) -> AsyncIterator[None]:
    """Run a Redis that keeps its data and is restarted about every `every_s` seconds, until `calm` is set."""
    command = [
        "redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--dir", str(folder),
        "--save", "", "--appendonly", "yes",
    ]  # fmt: skip

    async def keep() -> None:
        while True:
            async with running_program("redis", command):
                with suppress(TimeoutError):
                    await asyncio.wait_for(calm.wait(), every_s * dice.uniform(0.5, 1.5))
                    await asyncio.Event().wait()
            log("Redis is restarted")

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
