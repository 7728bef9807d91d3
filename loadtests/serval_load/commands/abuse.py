"""Send a hundred abusive requests to a gateway with the chart's memory limit, while others use it.

Starts the stand-in and the gateway itself, for each checkout in turn. Exit code 1 if in the last one's run
the gateway ended, or a stream or an ordinary prompt was lost.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from serval_load.abuse.mix import Kind, kinds
from serval_load.abuse.run import AbuseResult, abuse
from serval_load.abuse.tables import kinds_table, mix_table
from serval_load.machine import describe
from serval_load.programs import ROOT
from serval_load.progress import log

# Limit of the gateway's container in helm/serval/values.yaml.
CHART_LIMIT_MIB = 1024
_EXAMPLE = """
example:
  git worktree add --detach ../before v0.1.0
  python -m serval_load abuse --tree ../before --tree . --each
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--tree", type=Path, action="append", metavar="CHECKOUT", help="whose gateway to run (default: this)")
    add("--each", action="store_true", help="also one request of each kind, by itself")
    add("--limit", type=int, default=CHART_LIMIT_MIB, metavar="MIB", help="default: the chart's")
    add("--json", type=Path, metavar="FILE", help="write the figures there as well")


def run(args: argparse.Namespace) -> int:
    """Run the mix against each checkout and print tables; return 1 if the last gateway did not hold."""
    trees = {tree.resolve().name: tree.resolve() for tree in args.tree or [ROOT]}
    mix = kinds()
    alone: dict[str, Mapping[str, AbuseResult]] = {}
    together: dict[str, AbuseResult] = {}
    for name, tree in trees.items():
        if args.each:
            alone[name] = {
                kind.name: _abused(tree, [replace(kind, count=1, hold_s=0.0)], args.limit) for kind in mix
            }
        together[name] = _abused(tree, mix, args.limit)
    print(describe())
    if alone:
        print(f"\n{kinds_table(alone)}\n")
    print(mix_table(together))
    if args.json:
        figures = {name: found.as_object() for name, found in together.items()}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    last = list(together.values())[-1]
    return int(last.ended is not None or last.noticed.streams_lost + last.noticed.prompts_lost > 0)


def _abused(tree: Path, mix: Sequence[Kind], limit_mib: int) -> AbuseResult:
    log(f"{tree}: {mix[0].name if len(mix) == 1 else 'all kinds'}")
    found = uvloop.run(abuse(tree, mix, limit_mib=limit_mib))
    log(json.dumps(found.as_object()))
    return found
