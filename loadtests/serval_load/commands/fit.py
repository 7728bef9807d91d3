"""Record a trace of a real engine and fit the stand-in's times to it.

The engine must be idle, and run with --incremental-streaming-output as `serval engine` does.
"""

import argparse
import json
from pathlib import Path

import uvloop

from serval_load.client import Peer, get
from serval_load.fit import fit, replay, table, write
from serval_load.machine import describe
from serval_load.progress import log
from serval_load.report.sections import replace_section
from serval_load.stand_in.costs import FITTED
from serval_load.trace import record

_EXAMPLE = """
example:
  serval engine --model demo --port 30000 &   # or any running engine
  python -m serval_load fit --url http://127.0.0.1:30000 --name "demo model" --into loadtests/RESULTS.md
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:30000", help="the engine (default http://127.0.0.1:30000)")
    add("--name", required=True, help="what runs there, for the record")
    add("--lengths", type=int, nargs="+", default=[32, 128, 512, 1024, 2048], help="prompts, in tokens")
    add("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="requests at once")
    add("--vocabulary", type=int, default=1000, help="prompts are random ids below this (default 1000)")
    add(
        "--sizes",
        action="store_true",
        help="record the engine's KV cache and slots too, for `serval plan --rates`",
    )
    add("--out", type=Path, default=FITTED, help="file to write (default: the stand-in's own)")
    add("--into", type=Path, metavar="FILE", help="put the table between the file's markers for it")


def run(args: argparse.Namespace) -> int:
    """Record a trace, fit the costs, write both, and print how close the fit is."""
    trace = uvloop.run(
        record(
            Peer.of(args.url),
            source=f"{args.name}; {describe()}",
            lengths=args.lengths,
            batches=args.batches,
            vocabulary=args.vocabulary,
            log=log,
        )
    )
    sizes = uvloop.run(read_sizes(Peer.of(args.url))) if args.sizes else {}
    costs = fit(trace, **sizes)
    write(args.out, trace, costs)
    figures = table(trace, replay(trace, costs))
    print(figures, end="")
    if args.into:
        args.into.write_text(replace_section(args.into.read_text(), "fit", figures))
    return 0


async def read_sizes(peer: Peer) -> dict[str, int]:
    """Sizes that the engine tells, by field of `Costs`. Raises `OSError` or `ValueError`."""
    told = json.loads(await get(peer, "/server_info"))
    names = {
        "max_total_num_tokens": "kv_tokens",
        "chunked_prefill_size": "chunk_tokens",
        "max_running_requests": "max_running",
    }
    found = {field: told.get(name) for name, field in names.items()}
    return {field: size for field, size in found.items() if isinstance(size, int) and size > 0}
