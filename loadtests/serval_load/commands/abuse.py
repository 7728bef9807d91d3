"""Send a hundred abusive requests to a gateway with the chart's memory limit, while others use it.

Starts the stand-in and the gateway itself, for each checkout in turn. Exit code 1 if in the last one's run
the gateway ended, or a stream or an ordinary prompt was lost.
"""

import argparse
import json
from pathlib import Path

import uvloop

from serval_load.abuse.mix import kinds
from serval_load.abuse.run import AbuseResult, abuse
from serval_load.machine import describe
from serval_load.programs import ROOT
from serval_load.progress import log

# Of the gateway's container in helm/serval/values.yaml.
CHART_LIMIT_MIB = 1024
_EXAMPLE = """
example:
  git worktree add ../before v0.1.0
  python -m serval_load abuse --tree ../before --tree .
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--tree", type=Path, action="append", metavar="CHECKOUT", help="whose gateway to run")
    add(
        "--limit",
        type=int,
        default=CHART_LIMIT_MIB,
        metavar="MIB",
        help="default: the chart's",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures there as well")


def run(args: argparse.Namespace) -> int:
    """Run the mix against each checkout and print a table; return 1 if the last gateway did not hold."""
    found: list[tuple[str, AbuseResult]] = []
    for tree in args.tree or [ROOT]:
        log(f"abusing the gateway of {tree}")
        result = uvloop.run(abuse(tree.resolve(), kinds(), limit_mib=args.limit))
        log(json.dumps(result.as_object(), indent=1))
        found.append((tree.resolve().name, result))
    print(describe())
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps({name: one.as_object() for name, one in found}, indent=1) + "\n")
    last = found[-1][1]
    lost = last.noticed.streams_lost + last.noticed.prompts_lost
    return int(last.ended is not None or lost > 0)


def table(found: list[tuple[str, AbuseResult]]) -> str:
    """Return the runs as columns of a Markdown table."""
    rows = {
        "memory limit": [one.limit for _, one in found],
        "the gateway": ["held" if one.ended is None else f"killed ({one.ended})" for _, one in found],
        "memory before, MB": [f"{one.memory_before_mb:.0f}" for _, one in found],
        "memory at most, MB": [f"{one.memory_peak_mb:.0f}" for _, one in found],
        "memory after, MB": [f"{one.memory_after_mb:.0f}" for _, one in found],
        "`/healthz` waited at most": [f"{one.noticed.health_s:.2f} s" for _, one in found],
        "an ordinary prompt of 20 KB waited at most": [f"{one.noticed.prompt_s:.2f} s" for _, one in found],
        "ordinary prompts lost": [f"{one.noticed.prompts_lost} of {one.noticed.prompts}" for _, one in found],
        "streams lost": [f"{one.noticed.streams_lost} of {one.noticed.streams}" for _, one in found],
        "all abusive requests answered after": [f"{one.took_s:.0f} s" for _, one in found],
    }
    head = ["| |" + "|".join(f" {name} " for name, _ in found) + "|", "| --- |" + " ---: |" * len(found)]
    return "\n".join([*head, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items())])
