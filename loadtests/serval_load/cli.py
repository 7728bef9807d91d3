"""Command line of `python -m serval_load`."""

import argparse
import sys
from collections.abc import Sequence

from serval_load.commands import (
    abuse,
    batches,
    compare,
    conversations,
    engine,
    fit,
    fleet,
    load,
    overhead,
    placement,
    soak,
    usage,
)

_COMMANDS = {
    "engine": engine,
    "fit": fit,
    "load": load,
    "compare": compare,
    "fleet": fleet,
    "overhead": overhead,
    "placement": placement,
    "conversations": conversations,
    "soak": soak,
    "abuse": abuse,
    "usage": usage,
    "batches": batches,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m serval_load", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or "").strip().splitlines()[0]
        module.configure(
            commands.add_parser(
                name,
                help=summary,
                description=summary,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    args = parser.parse_args(arguments)
    code: int = _COMMANDS[args.command].run(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
