"""`serval checkpoint`, run as `python -m serval_sglang.cli.checkpoint`.

Exit codes: 0 ok, 1 the answer is no or something failed, 2 wrong use.
"""

import argparse
import sys
from collections.abc import Sequence

from serval_sglang.cli.checkpoint import hash as hash_command
from serval_sglang.cli.checkpoint import inspect, quantize_tables, tiny, verify, verify_hash
from serval_sglang.cli.run import run_command

_COMMANDS = {
    "tiny": (tiny, "write a small random checkpoint for tests"),
    "inspect": (inspect, "show what a checkpoint holds, and whether it is complete"),
    "quantize-tables": (quantize_tables, "store the n-gram tables in eight bits"),
    "verify": (verify, "compare the engine's answers on a checkpoint with the reference model's"),
    "hash": (hash_command, "write the SHA-256 of every file, to pin a checkpoint"),
    "verify-hash": (verify_hash, "compare a checkpoint with its pinned SHA-256"),
}


_EXAMPLES = """
examples:
  serval checkpoint inspect /models/LongCat-Flash-Lite
  serval checkpoint hash /models/LongCat-Flash-Lite --allow remote-code --out lite.sha256
  serval checkpoint tiny ./tiny
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="serval checkpoint",
        description="Make, inspect, verify and pin checkpoints of LongCat-Flash-Lite.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in _COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(subparser)
        subparser.set_defaults(run=module.run)
    own, engine_flags = _split(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(own, argparse.Namespace(engine_flags=engine_flags))
    return run_command(f"serval checkpoint {args.command}", lambda: int(args.run(args)))


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off the flags after `--`, which go to the engine in the command that starts it."""
    own = list(arguments)
    if own[:1] != ["verify"] or "--" not in own:
        return own, []
    dashes = own.index("--")
    return own[:dashes], own[dashes + 1 :]


if __name__ == "__main__":
    sys.exit(main())
