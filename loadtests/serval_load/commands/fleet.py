"""Show what several gateways do with several engines, each experiment with a table; exit with 1 if it fails.

All programs are started here. Clients send each request to any of the gateways.
"""

import argparse
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from serval_load.fleet import agents, fairness, hot_key, leaving, names, overload, smg, updates
from serval_load.fleet.finding import Finding
from serval_load.fleet.stack import SLOW, Engine, running_engines, running_gateways
from serval_load.machine import describe

_EXAMPLE = """
example:
  python -m serval_load fleet agents
  python -m serval_load fleet smg --smg-python /tmp/smg/bin/python
"""
GATEWAYS = 3
# Lets each gateway take its part of the slots that are free.
SHARE = {"SERVAL_LIMITS_SHARE": f"{1 / GATEWAYS:.4f}"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    summaries = [f"  {name:16} {run.__doc__}" for name, run in EXPERIMENTS.items()]
    parser.epilog = "\n".join(["experiments:", *summaries, _EXAMPLE])
    parser.add_argument("experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help="one of those below")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long clients come (default 30)")
    parser.add_argument("--seed", type=int, default=1, help="of texts and arrivals (default 1)")
    parser.add_argument(
        "--smg-python", type=Path, help="with smg: Python of an environment with that package"
    )


def run(args: argparse.Namespace) -> int:
    """Run the experiment and print its table."""
    findings = uvloop.run(EXPERIMENTS[args.experiment](args))
    print(describe())
    for finding in findings:
        print(f"\n{finding.table()}")
    for problem in (problem for finding in findings for problem in finding.problems):
        print(f"not met: {problem}", file=sys.stderr)
    return int(any(finding.problems for finding in findings))


async def _agents(args: argparse.Namespace) -> list[Finding]:
    """3 gateways find nine tenths of what one large engine would"""
    options = (*SLOW, "--max-running=64")
    return [await agents.compare_layouts(per_s=0.5, seconds=args.seconds, seed=args.seed, options=options)]


async def _hot_key(args: argparse.Namespace) -> list[Finding]:
    """a key with half of all requests overloads no engine"""
    async with (
        running_engines(4, *SLOW, "--max-running=64") as engines,
        running_gateways(engines, gateways=GATEWAYS, keys=60, environment=SHARE) as fleet,
    ):
        return [
            await hot_key.compare_keys(
                fleet, per_s=16, seconds=args.seconds, system=1536, asked=320, answer=50, seed=args.seed
            )
        ]


async def _overload(args: argparse.Namespace) -> list[Finding]:
    """at 1.5 times the capacity as much is found as at half of it"""
    async with (
        running_engines(4, *SLOW, "--max-running=16") as engines,
        running_gateways(engines, gateways=GATEWAYS, environment=SHARE) as fleet,
    ):
        return [await overload.compare_loads(fleet, prefill_per_s=5000, seconds=args.seconds, seed=args.seed)]


async def _leaving(args: argparse.Namespace) -> list[Finding]:
    """clients that leave: each request is aborted where it runs, and nowhere else"""
    findings = []
    async with running_engines(4, *SLOW, "--max-running=16") as engines:
        for number, (options, gateways) in enumerate((((), GATEWAYS), ((f"--workers={GATEWAYS}",), 1))):
            async with running_gateways(engines, *options, gateways=gateways) as fleet:
                findings.append(
                    await leaving.leave_at_random(
                        fleet, clients=1000, per_s=1000 / args.seconds, seed=args.seed + number
                    )
                )
    return findings


async def _kill(args: argparse.Namespace) -> list[Finding]:
    """an engine that is killed fails no request that had no answer yet"""
    async with running_engines(4, *SLOW) as engines, running_gateways(engines, gateways=GATEWAYS) as fleet:
        return [await updates.kill_under_load(fleet, per_s=20, seconds=args.seconds, seed=args.seed)]


async def _real_kill(args: argparse.Namespace) -> list[Finding]:
    """the same with two real engines that serve the demo model; takes minutes"""
    command = [sys.executable, "-m", "serval", "engine"]
    async with (
        Engine(command=command) as first,
        Engine(command=command) as second,
        running_gateways([first, second], gateways=1) as fleet,
    ):
        return [await updates.kill_under_load(fleet, per_s=2, seconds=args.seconds, seed=args.seed)]


async def _update(args: argparse.Namespace) -> list[Finding]:
    """an update of all engines, one after the other, fails no request"""
    async with (
        running_engines(4, *SLOW, "--drain-every-s=2") as engines,
        running_gateways(engines, gateways=GATEWAYS) as fleet,
    ):
        return [await updates.rolling_update(fleet, per_s=20, pause_s=args.seconds / 15, seed=args.seed)]


async def _dns(args: argparse.Namespace) -> list[Finding]:
    """engines that are added to a name in DNS, and taken from it, without a failed request"""
    async with names.running_named(4, gateways=GATEWAYS) as (fleet, file):
        return [await names.change_names(fleet, file, per_s=20, seed=args.seed)]


async def _fairness(args: argparse.Namespace) -> list[Finding]:
    """a small key beside one with a hundred times its requests waits no longer than with one engine"""
    runs = []
    for count, gateways in ((1, 1), (4, GATEWAYS)):
        async with (
            running_engines(count, *SLOW, f"--max-running={64 // count}") as engines,
            running_gateways(
                engines, gateways=gateways, keys=2, environment=SHARE if gateways > 1 else None
            ) as fleet,
        ):
            runs.append(await fairness.flood(fleet, greedy=200, seconds=args.seconds, seed=args.seed))
    return [fairness.compare(*runs, max_running=16)]


async def _smg(args: argparse.Namespace) -> list[Finding]:
    """3 gateways beside smg with its policy cache_aware"""
    if args.smg_python is None:
        raise SystemExit("--smg-python names no environment; make one with `pip install smg`")
    options = (*SLOW, "--max-running=64")
    return [
        await smg.compare_gateways(
            args.smg_python, per_s=0.5, seconds=args.seconds, seed=args.seed, options=options
        )
    ]


Experiment = Callable[[argparse.Namespace], Coroutine[Any, Any, list[Finding]]]
EXPERIMENTS: dict[str, Experiment] = {
    "agents": _agents,
    "hot-key": _hot_key,
    "overload": _overload,
    "leaving": _leaving,
    "kill": _kill,
    "real-kill": _real_kill,
    "update": _update,
    "dns": _dns,
    "fairness": _fairness,
    "smg": _smg,
}
