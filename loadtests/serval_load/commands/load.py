"""Put a workload on a running server and write a report: JSON, an HTML page and an SVG.

Sessions begin at their arrival times, however slow the server is. Several rates give a curve. `agentx` keeps
a number of agents at work instead (`--concurrency`).
"""

import argparse
import json
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import uvloop

from serval.workload_files import Conversation
from serval_load.client import Peer
from serval_load.commands import agentx
from serval_load.machine import describe
from serval_load.programs import ROOMY, running_gateway, running_stand_in
from serval_load.progress import log
from serval_load.report.page import page, picture, table
from serval_load.report.sections import replace_section
from serval_load.report.summary import Objective, summarise
from serval_load.workloads.arrivals import bursts, poisson, read_arrivals
from serval_load.workloads.driver import Request, drive
from serval_load.workloads.sessions import CONVERSATIONS, WORKLOADS, kind_of

_EXAMPLE = """
example:
  python -m serval_load load chat --url http://127.0.0.1:8000 --key $SERVAL_API_KEY --rate 1 2 4 --out report
  python -m serval_load load chat --stand-in --rate 2 4 8 16 --seconds 15 --svg curve.svg
  python -m serval_load load agentx --url https://example.com --key $KEY --concurrency 1 4 16 --out report
  python -m serval_load load agentx --url https://example.com --key $KEY --concurrency 8 --trace mine.json
"""
_SECONDS = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("workload", choices=[*WORKLOADS, "agentx"], help="what users do")
    add("--url", default="http://127.0.0.1:8000", help="the server, without /v1")
    add("--key", default="", help="its API key")
    add("--model", default="stand-in", help="the model's name there")
    add(
        "--rate", type=float, nargs="+", default=[1.0], help="sessions a second, one run for each (default 1)"
    )
    add(
        "--seconds",
        type=float,
        help="how long sessions begin, for each rate (default 30); agentx: no turn begins later",
    )
    add(
        "--trace",
        type=Path,
        help='begin sessions as this file says: lines of {"at": 1.5, "kind": "chat"}; agentx: replay this '
        "file of conversations, in the format that SGLang replays",
    )
    add("--vanish", type=float, default=0.0, help="share of clients that leave early (default 0)")
    add("--seed", type=int, default=1, help="of texts and arrivals (default 1)")
    add("--good-first", type=float, default=2.0, help="objective: seconds to the first token (default 2)")
    add("--good-gap", type=float, default=0.1, help="objective: mean seconds between tokens (default 0.1)")
    add(
        "--stand-in", action="store_true", help="load a gateway before the engine stand-in, both started here"
    )
    add("--out", type=Path, help="write NAME.json, NAME.html and NAME.svg")
    add("--svg", type=Path, metavar="FILE", help="draw the picture there")
    add("--into", type=Path, metavar="FILE", help="put the table between the file's markers of the workload")
    agentx.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the workload at each rate or concurrency and write the reports; return 1 if a request failed."""
    if args.workload == "agentx":
        drawn = agentx.draw_each(args)
        return 0 if args.no_requests else agentx.report(args, uvloop.run(_drive_agents(args, drawn)))
    args.seconds = _SECONDS if args.seconds is None else args.seconds
    objective = Objective(args.good_first, args.good_gap)
    runs = uvloop.run(_drive_rates(args))
    summaries = [
        summarise(requests, offered_per_s=rate, objective=objective)
        for rate, requests in zip(args.rate, runs, strict=True)
    ]
    requests = runs[-1]
    machine = describe()
    print(table(summaries), end="")
    if args.svg:
        args.svg.write_text(picture(summaries, requests))
    if args.into:
        figures = f"{machine}\n\n{table(summaries)}"
        args.into.write_text(replace_section(args.into.read_text(), f"load-{args.workload}", figures))
    if args.out:
        title = f"{args.workload}, {machine}"
        told = {
            "title": title,
            "summaries": [one.as_object() for one in summaries],
            "requests": [asdict(one) for one in requests],
        }
        args.out.with_suffix(".json").write_text(json.dumps(told) + "\n")
        args.out.with_suffix(".svg").write_text(picture(summaries, requests))
        args.out.with_suffix(".html").write_text(page(summaries, requests, title=title, objective=objective))
    return int(any(one.failed for one in summaries))


async def _drive_rates(args: argparse.Namespace) -> list[list[Request]]:
    """Run the workload once for each rate; return the requests of each run."""
    runs = []
    async with AsyncExitStack() as stack:
        peer = await _peer(args, stack)
        for number, rate in enumerate(args.rate):
            log(f"{args.workload}: {rate:g} sessions a second for {args.seconds:g} s")
            run = drive(
                peer,
                _sessions(args, rate),
                model=args.model,
                # Texts differ between rates, or the cache of the previous run would help.
                seed=args.seed * 1000 + number,
                vanish=args.vanish,
                log=log,
            )
            runs.append(await run)
    return runs


async def _drive_agents(args: argparse.Namespace, drawn: Sequence[Sequence[Conversation]]) -> agentx.Runs:
    async with AsyncExitStack() as stack:
        return await agentx.drive_each(args, drawn, await _peer(args, stack))


async def _peer(args: argparse.Namespace, stack: AsyncExitStack) -> Peer:
    """The server under load, started here with `--stand-in`."""
    if not args.stand_in:
        return Peer.of(args.url, args.key)
    _, engine_url = await stack.enter_async_context(running_stand_in(*ROOMY))
    environment = {"SERVAL_API_KEY": args.key or "sk-load"}
    _, url = await stack.enter_async_context(running_gateway(engine_url, environment=environment))
    return Peer.of(url, environment["SERVAL_API_KEY"])


def _sessions(args: argparse.Namespace, rate: float) -> list[tuple[float, str]]:
    if args.trace:
        entries = read_arrivals(args.trace)
        unknown = {kind for _, kind in entries} - set(CONVERSATIONS)
        if unknown:
            raise SystemExit(
                f"{args.trace}: unknown kinds {sorted(unknown)}; known are {sorted(CONVERSATIONS)}"
            )
        return entries
    source = random.Random(args.seed)
    arrivals = bursts if args.workload == "burst" else poisson
    return [(at, kind_of(args.workload, source)) for at in arrivals(source, per_s=rate, seconds=args.seconds)]
