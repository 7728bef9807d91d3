"""Soak the gateway: mixed tenants for as long as you like, then look for what was left behind.

Starts the stand-in and the gateway itself. Exit code 1 if a request failed or anything is still held.
"""

import argparse
import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from serval_load.client import Peer
from serval_load.compare.systems import new_key
from serval_load.machine import described
from serval_load.processes import running_gateway, running_stand_in
from serval_load.progress import say
from serval_load.soak import Soaked, soak

_EXAMPLE = """
example:
  python -m serval_load soak                           # 30 minutes
  python -m serval_load soak --minutes 0.3 --rate 10   # what CI runs
"""
# Quick and roomy: the gateway is what is soaked.
_ENGINE = (
    "--decode-base-s=0.004",
    "--decode-request-s=0.0001",
    "--prefill-base-s=0.002",
    "--prefill-token-s=0.000005",
    "--kv-tokens=2000000",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="how long sessions begin (default 30)")
    add("--rate", type=float, default=4.0, help="sessions a second (default 4)")
    add("--sample", type=float, default=2.0, metavar="SECONDS", help="between two samples (default 2)")
    add("--workers", type=int, default=1, help="processes of the gateway (default 1)")
    add("--json", type=Path, metavar="FILE", help="write the figures there as well")


def run(args: argparse.Namespace) -> int:
    """Run and print the figures."""
    found = uvloop.run(_soaked(args))
    print(described())
    print(json.dumps(found.as_object(), indent=1))
    if args.json:
        args.json.write_text(json.dumps(found.as_object(), indent=1) + "\n")
    return int(bool(found.failed or found.held))


async def _soaked(args: argparse.Namespace) -> Soaked:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-load-"))
        database = f"{folder}/keys.db"
        key = await asyncio.to_thread(new_key, database)
        _, engine_url = await stack.enter_async_context(running_stand_in(*_ENGINE))
        started = running_gateway(
            engine_url, f"--workers={args.workers}", environment={"SERVAL_KEY_DATABASE": database}
        )
        gateway, url = await stack.enter_async_context(started)
        return await soak(
            gateway,
            Peer.of(url, key),
            Peer.of(engine_url),
            seconds=60 * args.minutes,
            per_s=args.rate,
            every_s=args.sample,
            say=say,
        )
