"""Run a batch on gateways of which one is killed, and measure first tokens beside batches and without.

Starts the stand-in and gateways that share a key database and a folder. Exit code 1 if a line of the batch is
missing or doubled, or if the p99 of first tokens beside batches is over 1.1 times that without.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from serval.caller.identity import INFERENCE
from serval.store.database import open_database
from serval.store.key_store import KeyStore
from serval_load.batches import (
    FirstTokens,
    Lines,
    compare,
    first_tokens,
    input_file,
    kill,
    start_batch,
    watched,
)
from serval_load.client import Peer, get
from serval_load.compare.systems import UNREACHED_LIMITS
from serval_load.machine import describe
from serval_load.programs import ROOMY, running_gateway, running_stand_in
from serval_load.progress import log

_EXAMPLE = """
example:
  python -m serval_load batches                 # 10,000 lines, then two minutes of first tokens
  python -m serval_load batches --lines 500 --windows 0
"""
MOST_P99_RATIO = 1.1
# More than are run in one measurement.
_LINES_BESIDE = 3000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--lines", type=int, default=10_000, help="lines of the batch; 0 leaves it out (default 10000)")
    add("--concurrency", type=int, default=32, help="lines that a gateway runs at once (default 32)")
    add("--kills", type=int, default=2, help="how often the second gateway is killed (default 2)")
    add("--windows", type=int, default=4, help="measurements with and without batches (default 4)")
    add("--seconds", type=float, default=15.0, help="length of each (default 15)")
    add("--rate", type=float, default=20.0, help="requests a second meanwhile (default 20)")
    add("--seed", type=int, default=0, help="of the random choices (default 0)")
    add("--json", type=Path, metavar="FILE", help="write the figures there as well")


def run(args: argparse.Namespace) -> int:
    """Run both parts and print their figures."""
    found = uvloop.run(_experiment(args))
    print(f"{describe()}\n{json.dumps(found, indent=1)}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    good = found.get("lines", {}).get("every_line_once", True)
    return int(not good or found.get("first_tokens", {}).get("p99_ratio", 0.0) > MOST_P99_RATIO)


async def _experiment(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-load-")))
        database = str(folder / "keys.db")
        _, key = KeyStore(open_database(database)).create(name="batches", scopes=[INFERENCE])
        environment = {
            "SERVAL_KEY_DATABASE": database,
            "SERVAL_BATCH_FOLDER": str(folder / "files"),
            "SERVAL_BATCH_CONCURRENCY": str(args.concurrency),
            **UNREACHED_LIMITS,
        }
        _, engine_url = await stack.enter_async_context(running_stand_in(*ROOMY))
        _, url = await stack.enter_async_context(running_gateway(engine_url, environment=environment))
        peer = Peer.of(url, key)
        if args.lines:
            began = time.monotonic()
            lines = await killed_batch(peer, engine_url, environment, lines=args.lines, kills=args.kills)
            took_s = round(time.monotonic() - began, 1)
            started = json.loads(await get(Peer.of(engine_url), "/v1/loads"))["stand_in"]["started"]
            found["lines"] = {
                **asdict(lines),
                "every_line_once": lines.every_line_once,
                "kills": args.kills,
                # Lines whose process was killed before their result was recorded.
                "run_again": started - args.lines,
                "seconds": took_s,
            }
        if args.windows:
            times: FirstTokens = await first_tokens(
                peer,
                windows=args.windows,
                seconds=args.seconds,
                rate=args.rate,
                lines=_LINES_BESIDE,
                dice=random.Random(args.seed),
            )
            found["first_tokens"] = {**asdict(times), "p99_ratio": round(times.p99_ratio, 3)}
    return found


async def killed_batch(
    peer: Peer, engine_url: str, environment: Mapping[str, str], *, lines: int, kills: int
) -> Lines:
    """Run a batch on the gateway at `peer` and a second one, which is killed `kills` times in between."""
    done = 0.0

    def note(share: float) -> None:
        nonlocal done
        done = share

    watching: asyncio.Task[dict[str, Any]] | None = None
    for number in range(kills + 1):
        async with running_gateway(engine_url, environment=environment) as (program, _):
            if watching is None:
                batch_id = await start_batch(peer, input_file(lines))
                watching = asyncio.create_task(watched(peer, batch_id, note))
            # The kills are spread over the batch.
            kill_at = (number + 1) / (kills + 1)
            while not watching.done() and (number == kills or done < kill_at):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            if number < kills:
                log(f"kill -9 of the second gateway at {done:.0%} of the lines")
                await kill(program)
    assert watching is not None
    return await compare(peer, await watching, lines)
