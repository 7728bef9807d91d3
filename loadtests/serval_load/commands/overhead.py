"""Ask one real engine in three ways in turn: natively, by SGLang's own OpenAI server, through the gateway.

Starts the engine (by default with the demo model) and the gateway, as `serval serve` does.
"""

import argparse
import asyncio
import json
import secrets
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import uvloop

from serval_load.client import Peer, exchange, prepared
from serval_load.machine import describe
from serval_load.overhead import Measured, Servers, measure_ways, table
from serval_load.programs import Program, free_port, running_gateway, running_program
from serval_load.progress import log
from serval_load.report.sections import replace_section

_EXAMPLE = """
example:
  python -m serval_load overhead --into loadtests/RESULTS.md --json loadtests/overhead.json
"""
_START_TIMEOUT_S = 900.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--model", type=Path, metavar="DIR", help="checkpoint folder (default: the demo model)")
    add("--rounds", type=int, default=60, help="times that a question is asked in all ways (default 60)")
    add("--tokens", type=int, default=64, help="most tokens of an answer (default 64)")
    add("--engine-cores", metavar="CORES", help="cores of the engine (default: all)")
    add("--gateway-cores", metavar="CORES", help="cores of the gateway (default: all)")
    add(
        "engine_options",
        nargs="*",
        metavar="-- ENGINE_OPTION",
        help="options of `serval engine`; behind another --, flags of SGLang",
    )
    add("--json", type=Path, metavar="FILE", help="write all times there as well")
    add("--into", type=Path, metavar="FILE", help="put the table between the file's markers for it")


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    found = uvloop.run(_measure(args))
    figures = table(found, machine=describe())
    print(figures, end="")
    if args.json:
        args.json.write_text(json.dumps({way: asdict(one) for way, one in found.items()}, indent=1) + "\n")
    if args.into:
        args.into.write_text(replace_section(args.into.read_text(), "overhead", figures))
    return 0


async def _measure(args: argparse.Namespace) -> dict[str, Measured]:
    port, key = free_port(), f"sk-{secrets.token_hex(8)}"
    engine_url = f"http://127.0.0.1:{port}"
    model = () if args.model is None else (f"--model={args.model}",)
    async with AsyncExitStack() as stack:
        command = [sys.executable, "-m", "serval", "engine", f"--port={port}", *model, *args.engine_options]
        engine = await stack.enter_async_context(running_program("engine", command, cores=args.engine_cores))
        await _wait_until_ready(engine, Peer.of(engine_url))
        log("the engine is ready")
        environment = {"SERVAL_API_KEY": key}
        started = running_gateway(engine_url, *model, environment=environment, cores=args.gateway_cores)
        gateway, url = await stack.enter_async_context(started)
        peer = Peer.of(url, key)
        servers = Servers(engine, Peer.of(engine_url), gateway, peer, "stand-in")
        return await measure_ways(servers, rounds=args.rounds, tokens=args.tokens, log=log)


async def _wait_until_ready(engine: Program, peer: Peer) -> None:
    """Wait until the engine takes requests. Raises `RuntimeError`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_TIMEOUT_S
    while loop.time() < deadline and engine.process.poll() is None:
        raw = await exchange(peer, prepared(peer, b"", path="/health", method="GET"), vanish_after_s=10)
        if raw.data.startswith(b"HTTP/1.1 200"):
            return
        await asyncio.sleep(1)
    raise RuntimeError(f"the engine did not start:\n{engine.output.read_text(errors='replace')[-4000:]}")
