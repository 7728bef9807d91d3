"""Command line of `python -m serval_load`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

# Names of the modules in `serval_load.commands`.
_COMMANDS = (
    "engine",
    "fit",
    "load",
    "compare",
    "fleet",
    "overhead",
    "placement",
    "conversations",
    "soak",
    "abuse",
    "usage",
    "batches",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m serval_load", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    # Importing all of them takes eight times as long as the stand-in, which load tests start by the dozen.
    for name in given[:1] if given[:1] and given[0] in _COMMANDS else _COMMANDS:
        module = importlib.import_module(f"serval_load.commands.{name}")
        summary = (module.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(given)
    code: int = args.run(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
