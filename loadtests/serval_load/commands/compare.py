"""Compare Serval's gateway with others in front of the same stand-in, and write the table.

The gateway gets core 0; the stand-in and the clients share core 1. Needs two cores and Debian's `wrk`.
"""

import argparse
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import uvloop

from serval_load.client import Peer
from serval_load.compare import systems
from serval_load.compare.figures import Comparison, ratios, read_comparison
from serval_load.compare.measure import PACE_S, Plan, Result, measure
from serval_load.compare.table import markdown
from serval_load.machine import describe
from serval_load.programs import running_stand_in
from serval_load.progress import log
from serval_load.report.comparison import picture
from serval_load.report.sections import replace_section

_EXAMPLE = """
example:
  loadtests/comparison/run.sh                        # installs the others, writes RESULTS.md
  python -m serval_load compare --only direct serval # this one alone
  python -m serval_load compare --figures loadtests/comparison/figures.json --svg comparison.svg
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--serval-python", type=Path, help="Python of an environment with the gateway's packages")
    add("--router-python", type=Path, help="Python of an environment with sglang-router")
    add("--litellm-python", type=Path, help="Python of an environment with LiteLLM's proxy")
    add("--only", nargs="+", metavar="SYSTEM", help="of direct, serval, sglang-router, litellm")
    add("--seconds", type=float, default=5.0, help="length of each run of whole answers (default 5)")
    add("--frames", type=int, default=200, help="frames of each stream, 50 a second (default 200)")
    add("--gateway-cores", default="0", help="cores of the gateway (default 0)")
    add("--client-cores", default="1", help="cores of stand-in and clients (default 1)")
    add("--figures", type=Path, metavar="FILE", help="measure nothing; take what --json wrote")
    add("--json", type=Path, metavar="FILE", help="write all figures there as well")
    add("--into", type=Path, metavar="FILE", help="put the table between the file's markers for it")
    add(
        "--ratios-into",
        type=Path,
        metavar="FILE",
        help="put a few ratios between the file's markers for them",
    )
    add("--svg", type=Path, metavar="FILE", help="draw requests/s and stall-free streams")


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    if args.figures:
        compared = read_comparison(args.figures)
    else:
        results = uvloop.run(_measure(args))
        compared = Comparison(describe(gateways=args.serval_python), results)
    table = markdown(compared.results, machine=compared.machine)
    print(table)
    if args.json:
        args.json.write_text(json.dumps(asdict(compared), indent=1) + "\n")
    if args.into:
        args.into.write_text(replace_section(args.into.read_text(), "comparison", table))
    if args.ratios_into:
        told = ratios(compared.results)
        args.ratios_into.write_text(replace_section(args.ratios_into.read_text(), "ratios", told))
    if args.svg:
        args.svg.write_text(picture(compared.results))
    return 0


async def _measure(args: argparse.Namespace) -> list[Result]:
    plan = Plan(seconds=args.seconds, frames=args.frames, client_cores=args.client_cores)
    cores: str = args.gateway_cores
    python: Path = args.serval_python or Path(sys.executable)
    results = []
    async with running_stand_in("--bare", f"--pace={PACE_S}", cores=plan.client_cores) as (_, url):
        starts = {
            "direct": lambda: systems.direct(url, cores),
            "serval": lambda: systems.serval(url, cores, python),
        }
        if args.router_python:
            starts["sglang-router"] = lambda: systems.sglang_router(url, cores, args.router_python)
        if args.litellm_python:
            starts["litellm"] = lambda: systems.litellm(url, cores, args.litellm_python)
        for name in args.only or starts:
            log(f"starting {name}")
            async with AsyncExitStack() as stack:
                system = await stack.enter_async_context(starts[name]())
                results.append(await measure(system, engine=Peer.of(url), plan=plan, log=log))
    return results
