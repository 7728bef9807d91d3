"""Write the SHA-256 of every file of a checkpoint.

The result has the format of `sha256sum`, and `sha256sum --check` reads it. Hidden files are skipped. Files
that may run code are refused: a pinned checkpoint is one that is safe to load. Keep the manifest, or the
printed SHA-256 of the manifest, apart from the checkpoint: who can change one can change the other.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from serval_sglang.checkpoint.files import list_files
from serval_sglang.checkpoint.manifest import MANIFEST_FILE, file_digests, write_manifest
from serval_sglang.checkpoint.safety import refuse_unsafe_files
from serval_sglang.cli.checkpoint.arguments import add_hashing
from serval_sglang.cli.progress import ByteProgress

_EXAMPLE = """\
example:
  serval checkpoint hash ./LongCat-Flash-Lite --allow remote-code --out lite.sha256
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = _EXAMPLE
    add_hashing(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"where to write (default: DIR/{MANIFEST_FILE})"
    )


def run(args: argparse.Namespace) -> int:
    """Write the manifest."""
    out: Path = args.out or args.directory / MANIFEST_FILE
    files = hashable_files(args.directory, without=out)
    refuse_unsafe_files(args.directory, files, allowed=args.allow)
    digests = digests_with_progress(args.directory, files, threads=args.threads)
    manifest_digest = write_manifest(out, digests)
    if args.json:
        print(json.dumps({"manifest": str(out), "manifest_sha256": manifest_digest, "files": digests}))
    else:
        print(f"{len(digests)} files, written to {out}\nSHA-256 of the manifest: {manifest_digest}")
    return 0


def hashable_files(directory: Path, *, without: Path) -> list[str]:
    """List all files except manifests, both the one at `without` and one at the usual place."""
    return [
        file
        for file in list_files(directory)
        if file != MANIFEST_FILE and (directory / file).absolute() != without.absolute()
    ]


def digests_with_progress(directory: Path, files: Sequence[str], *, threads: int) -> dict[str, str]:
    """Compute the SHA-256 of `files`, with progress on standard error."""
    total_bytes = sum((directory / file).stat().st_size for file in files)
    with ByteProgress("hashing", total_bytes, stream=sys.stderr) as progress:
        return file_digests(directory, files, threads=threads, on_progress=progress.advance)
