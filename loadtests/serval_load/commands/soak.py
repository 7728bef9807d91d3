"""Soak the gateway: mixed tenants for as long as you like, then look for what was left behind.

Starts the stand-in and the gateway itself, with limits that are counted and never reached: in the gateway, or
with --redis in a Redis that it starts too. Exit code 1 if a request failed or anything is still held.
"""

import argparse
import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from serval_load.client import Peer, exchange, prepared
from serval_load.compare.measure import request
from serval_load.compare.systems import UNREACHED_LIMITS, new_key
from serval_load.limits_redis import running_redis
from serval_load.machine import describe
from serval_load.programs import ROOMY, running_gateway, running_stand_in
from serval_load.progress import log
from serval_load.report.soak import picture
from serval_load.soak import SoakResult, soak

_EXAMPLE = """
example:
  python -m serval_load soak --svg soak.svg            # 30 minutes
  python -m serval_load soak --minutes 0.3 --rate 10   # what CI runs
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="how long sessions begin (default 30)")
    add("--rate", type=float, default=4.0, help="sessions a second (default 4)")
    add("--sample", type=float, default=2.0, metavar="SECONDS", help="between two samples (default 2)")
    add("--workers", type=int, default=1, help="processes of the gateway (default 1)")
    add("--redis", action="store_true", help="count the limits in a Redis (needs redis-server)")
    add("--json", type=Path, metavar="FILE", help="write the figures there as well")
    add("--svg", type=Path, metavar="FILE", help="draw memory, files, tasks and requests over time")


def run(args: argparse.Namespace) -> int:
    """Run the soak and print its figures; return 1 if a request failed or anything is still held."""
    found = uvloop.run(_run_soak(args))
    print(describe())
    print(json.dumps(found.as_object(), indent=1))
    if args.json:
        args.json.write_text(json.dumps(found.as_object(), indent=1) + "\n")
    if args.svg:
        args.svg.write_text(picture(found.samples))
    return int(bool(found.failed or found.held))


async def _run_soak(args: argparse.Namespace) -> SoakResult:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-load-"))
        database = f"{folder}/keys.db"
        key = await asyncio.to_thread(new_key, database)
        _, engine_url = await stack.enter_async_context(running_stand_in(*ROOMY))
        environment = {"SERVAL_KEY_DATABASE": database, **UNREACHED_LIMITS}
        redis = await stack.enter_async_context(running_redis()) if args.redis else None
        if redis is not None:
            environment["SERVAL_LIMITS_URL"] = redis.url
        started = running_gateway(engine_url, f"--workers={args.workers}", environment=environment)
        gateway, url = await stack.enter_async_context(started)
        peer = Peer.of(url, key)
        # Modules loaded by the first request are no leak.
        await exchange(peer, prepared(peer, request(tokens=2, stream=True)))
        found = await soak(
            gateway,
            peer,
            Peer.of(engine_url),
            seconds=60 * args.minutes,
            per_s=args.rate,
            every_s=args.sample,
            held_elsewhere=dict if redis is None else redis.held,
            log=log,
        )
        if redis is not None:
            log(f"Redis holds {redis.describe()}")
        return found
