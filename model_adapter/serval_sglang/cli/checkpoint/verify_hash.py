"""Compare a checkpoint with the SHA-256 that pin it.

Exit code 0: every file is the one that was pinned, and there are no others. 1: a file is changed, missing or
extra, or may run code. A manifest says that files are the same, not that they are safe.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from serval_sglang.checkpoint.manifest import MANIFEST_FILE, compare, read_manifest
from serval_sglang.checkpoint.safety import refuse_unsafe_files
from serval_sglang.cli.checkpoint.arguments import add_hashing
from serval_sglang.cli.checkpoint.hash import digests_with_progress, hashable_files

_EXAMPLE = """\
example:
  serval checkpoint verify-hash ./LongCat-Flash-Lite --allow remote-code --manifest lite.sha256
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = _EXAMPLE
    add_hashing(parser)
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help=f"what to compare with (default: DIR/{MANIFEST_FILE})"
    )


def run(args: argparse.Namespace) -> int:
    """Print the differences; return 0 if there are none."""
    manifest_file: Path = args.manifest or args.directory / MANIFEST_FILE
    manifest = read_manifest(manifest_file)
    files = hashable_files(args.directory, without=manifest_file)
    refuse_unsafe_files(args.directory, files, allowed=args.allow)
    pinned = [file for file in files if file in manifest]
    digests = digests_with_progress(args.directory, pinned, threads=args.threads)
    difference = compare(manifest, digests, extra=[file for file in files if file not in manifest])
    if args.json:
        print(json.dumps({"matches": not difference, "files": len(manifest), **asdict(difference)}))
    else:
        for kind, paths in asdict(difference).items():
            print("".join(f"{kind:8} {path}\n" for path in paths), end="")
        unchanged = len(pinned) - len(difference.changed)
        print(f"{unchanged} of {len(manifest)} files are as pinned in {manifest_file}")
    return 1 if difference else 0
