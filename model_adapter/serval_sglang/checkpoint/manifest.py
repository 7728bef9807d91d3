"""SHA-256 of every file of a checkpoint: what was tested is what is served.

The manifest is the text that ``sha256sum`` writes and ``sha256sum --check`` reads.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from serval_sglang.checkpoint.files import CheckpointError

MANIFEST_FILE = "SHA256SUMS"

Progress = Callable[[int], None]

_CHUNK_BYTES = 8 << 20
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<path>.+)")


@dataclass(frozen=True, slots=True)
class Difference:
    """Paths that are not as the manifest says."""

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.changed or self.missing or self.extra)


def file_digests(
    directory: Path, files: Sequence[str], *, threads: int, on_progress: Progress = lambda _: None
) -> dict[str, str]:
    """SHA-256 of ``files`` (paths within ``directory``), in hexadecimal, in the same order.

    Args:
        on_progress: called with the bytes read since the last call, from one thread at a time.

    Raises:
        OSError: a file cannot be read.
    """
    lock = threading.Lock()
    is_over = threading.Event()

    def digest(file: str) -> str:
        sha256 = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        try:
            with (directory / file).open("rb", buffering=0) as stream:
                while not is_over.is_set() and (read := stream.readinto(buffer)):
                    sha256.update(buffer[:read])
                    with lock:
                        on_progress(read)
        except BaseException:
            # Set here, since this thread may take the next file before the caller sees the error.
            is_over.set()
            raise
        return sha256.hexdigest()

    pool = ThreadPoolExecutor(threads)
    try:
        return dict(zip(files, pool.map(digest, files), strict=True))
    finally:
        # After Ctrl-C nobody waits for the remaining gigabytes.
        is_over.set()
        pool.shutdown(cancel_futures=True)


def write_manifest(path: Path, digests: Mapping[str, str]) -> str:
    """Write the manifest, whole or not at all; return its own SHA-256, which pins all of it.

    Raises:
        CheckpointError: the name of a file cannot stand in a line.
    """
    unwritable = [file for file in digests if not file.isprintable() or "\\" in file]
    if unwritable:
        raise CheckpointError(f"{unwritable[0]!r} cannot stand in a manifest: rename the file.")
    content = "".join(f"{digest}  {file}\n" for file, digest in sorted(digests.items())).encode()
    # Hidden, so that what a crash leaves behind is no file of the checkpoint.
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
    return hashlib.sha256(content).hexdigest()


def read_manifest(path: Path) -> dict[str, str]:
    """Path within the directory -> SHA-256.

    Raises:
        CheckpointError: the file is absent, or is no manifest, or names a path outside the directory.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the manifest {path} cannot be read: {error}") from error
    digests = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or ".." in Path(match["path"]).parts or Path(match["path"]).is_absolute():
            raise CheckpointError(
                f"line {number} of {path} must be a SHA-256 in lower case, two spaces, and a path within the "
                f"directory, got {line!r}."
            )
        digests[match["path"]] = match["digest"]
    return digests


def compare(manifest: Mapping[str, str], found: Mapping[str, str], *, extra: Sequence[str]) -> Difference:
    """How a directory differs from ``manifest``: digests ``found`` of files in it, and files not in it."""
    return Difference(
        changed=tuple(file for file, digest in found.items() if manifest[file] != digest),
        missing=tuple(sorted(manifest.keys() - found.keys())),
        extra=tuple(extra),
    )
