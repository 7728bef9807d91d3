"""Arguments shared by several subcommands."""

import argparse
from pathlib import Path
from typing import get_args

from serval_sglang.checkpoint.safety import Hazard
from serval_sglang.cli.arguments import positive_int
from serval_sglang.settings import available_cpus


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint's directory, which must exist."""
    parser.add_argument("directory", type=_directory, metavar="DIR", help="folder of the checkpoint")


def add_hashing(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `hash` and `verify-hash`."""
    add_directory(parser)
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        choices=get_args(Hazard),
        help="accept files that other tools may run: pickled weights, or the code that Meituan's own release "
        "brings along (may be given twice)",
    )
    parser.add_argument(
        "--threads",
        type=positive_int,
        default=min(4, len(available_cpus())),
        metavar="N",
        help="files read at the same time (default: one a CPU, at most 4)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be an existing folder, got {text!r}")
    return path
