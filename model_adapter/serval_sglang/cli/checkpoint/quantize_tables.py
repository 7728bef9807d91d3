"""Store the n-gram tables of a checkpoint in eight bits per value with one scale per row.

Tables of 62.8 GB become 31.9 GB; everything else is unchanged, and few rows are in memory at a time. The
error of each table is printed: int8 is more exact for rows whose values are spread evenly.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from serval_sglang.checkpoint.files import weight_files
from serval_sglang.cli.checkpoint.arguments import add_directory
from serval_sglang.cli.text import decimal_size, table

_EXAMPLE = """\
example:
  serval checkpoint quantize-tables ./LongCat-Flash-Lite-FP8 ./LongCat-Flash-Lite-FP8-int8-tables
"""
_DTYPES = {"int8": "int8", "fp8": "float8_e4m3fn"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = _EXAMPLE
    add_directory(parser)
    parser.add_argument(
        "target", type=Path, metavar="TARGET", help="folder to write; must not hold weights yet"
    )
    parser.add_argument("--dtype", choices=tuple(_DTYPES), default="int8", help="of a value (default int8)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Write the new checkpoint. Raises `ConfigError` or `CheckpointError`."""
    import torch

    from serval_sglang.checkpoint.quantize import quantize_tables

    errors = quantize_tables(
        args.directory,
        args.target,
        dtype=getattr(torch, _DTYPES[args.dtype]),
        progress=lambda message: print(message, file=sys.stderr, flush=True),
    )
    if args.json:
        print(json.dumps([asdict(error) for error in errors]))
    else:
        head = ("table", "rows", "mean |error|", "max |error|", "relative rms")
        rows = [
            (str(e.table), f"{e.rows:,}", f"{e.mean:.4g}", f"{e.largest:.4g}", f"{e.relative_rms:.3%}")
            for e in errors
        ]
        print(table([head, *rows]))
        before, after = (decimal_size(_weights_bytes(folder)) for folder in (args.directory, args.target))
        print(f"\nwritten to {args.target}: {after} of weights instead of {before}")
    return 0


def _weights_bytes(directory: Path) -> int:
    return sum((directory / file).stat().st_size for file in weight_files(directory))
