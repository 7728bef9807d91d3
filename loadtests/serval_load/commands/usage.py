"""Kill gateways, workers, Redis and the database's writers at random, and compare usage with the answers.

Starts the stand-in, gateways that share a key database and a usage journal, and clients with a key each. Exit
code 1 if a whole answer is missing in the usage, or anything was counted twice.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import tempfile
import time
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path

import uvloop

from serval.caller.identity import INFERENCE
from serval.store.database import open_database
from serval.store.key_store import KeyStore
from serval.store.usage import HOUR_S, UsageTable
from serval.usage.recorder import adopt
from serval_load.client import Peer
from serval_load.compare.systems import UNREACHED_LIMITS
from serval_load.machine import describe
from serval_load.programs import ROOMY, free_port, running_program, running_stand_in
from serval_load.progress import log
from serval_load.usage_kills import Difference, Received, difference, killed_gateway, use

_EXAMPLE = """
example:
  python -m serval_load usage                 # ten minutes
  python -m serval_load usage --minutes 1
"""
_LOCKED_S = 3.0


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
    add("--json", type=Path, metavar="FILE", help="write the figures there as well")


def run(args: argparse.Namespace) -> int:
    """Run the experiment and print the difference."""
    found = uvloop.run(_experiment(args))
    figures = json.dumps(asdict(found), indent=1)
    print(f"{describe()}\n{figures}")
    if args.json:
        args.json.write_text(figures + "\n")
    return int(not found.is_within_bound)


async def _experiment(args: argparse.Namespace) -> Difference:
    dice = random.Random(args.seed)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-load-")))
        database = str(folder / "keys.db")
        store = KeyStore(open_database(database))
        keys = [store.create(name=f"client-{index}", scopes=[INFERENCE]) for index in range(args.clients)]
        environment = {
            "SERVAL_KEY_DATABASE": database,
            "SERVAL_USAGE_JOURNAL": str(folder / "usage"),
            **UNREACHED_LIMITS,
        }
        stop = asyncio.Event()
        disturbing = [asyncio.create_task(_lock_now_and_then(database, args.every, dice))]
        if args.redis:
            environment["SERVAL_LIMITS_URL"] = f"unix://{folder}/redis.sock"
            # Whatever Redis does, clients should get answers.
            environment["SERVAL_LIMITS_GRACE_S"] = "3600"
            disturbing.append(asyncio.create_task(_restart_redis(folder / "redis.sock", args.every, dice)))
        _, engine_url = await stack.enter_async_context(running_stand_in(*ROOMY))
        ports = [free_port() for _ in range(args.gateways)]
        received = {record.id: Received() for record, _ in keys}
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
            for task in disturbing:
                task.cancel()
            await asyncio.gather(*disturbing, return_exceptions=True)
        table = UsageTable(store.engine)
        # As the next gateway would do when it starts.
        await asyncio.to_thread(adopt, folder / "usage", table, int(time.time() // HOUR_S))
        rows = table.sums(("key",), first=0, end=10**7, most=10**6)
    refused = sum(one.refused for one in received.values())
    log(f"{refused} requests were refused with an error")
    return difference(
        received,
        {
            row.key: (int(row.requests - row.errors), int(row.prompt_tokens), int(row.completion_tokens))
            for row in rows
        },
    )


async def _lock_now_and_then(database: str, every_s: float, dice: random.Random) -> None:
    """Keep everybody from writing the database for a few seconds, now and then."""
    while True:
        await asyncio.sleep(every_s * dice.uniform(0.5, 1.5))
        with closing(sqlite3.connect(database, timeout=0.1)) as lock, suppress(sqlite3.OperationalError):
            lock.execute("BEGIN IMMEDIATE")
            log(f"the database is locked for {_LOCKED_S:g} s")
            await asyncio.sleep(_LOCKED_S)


async def _restart_redis(socket: Path, every_s: float, dice: random.Random) -> None:
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""]
    while True:
        async with running_program("redis", command):
            await asyncio.sleep(every_s * dice.uniform(0.5, 1.5))
        log("Redis is restarted, without its data")
