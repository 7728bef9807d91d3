"""SHA-256 manifest of a checkpoint's files, which proves that the tested files are the ones being served.

The manifest has the format of `sha256sum`, and `sha256sum --check` accepts it.
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
    """Paths that differ from the manifest."""

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.changed or self.missing or self.extra)


def file_digests(
    directory: Path, files: Sequence[str], *, threads: int, on_progress: Progress = lambda _: None
) -> dict[str, str]:
    """Compute the SHA-256 of `files` (paths within `directory`), in hexadecimal, in the same order.

    `on_progress` is called with the bytes read since the last call, from one thread at a time. Raises
    `OSError` if a file cannot be read.
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
            # Set here, because this thread may start on the next file before the caller sees the error.
            is_over.set()
            raise
        return sha256.hexdigest()

    pool = ThreadPoolExecutor(threads)
    try:
        return dict(zip(files, pool.map(digest, files), strict=True))
    finally:
        # Ctrl-C must not wait for the remaining gigabytes.
        is_over.set()
        pool.shutdown(cancel_futures=True)


def write_manifest(path: Path, digests: Mapping[str, str]) -> str:
    """Write the manifest atomically; return its own SHA-256, which pins all files.

    Raises `CheckpointError` if a file name cannot be written on one line.
    """
    unwritable = [file for file in digests if not file.isprintable() or "\\" in file]
    if unwritable:
        raise CheckpointError(f"{unwritable[0]!r} cannot stand in a manifest: rename the file.")
    content = "".join(f"{digest}  {file}\n" for file, digest in sorted(digests.items())).encode()
    # Hidden, so that a file left by a crash does not count as part of the checkpoint.
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
    return hashlib.sha256(content).hexdigest()


def read_manifest(path: Path) -> dict[str, str]:
    """Read a manifest as a map from paths within the directory to SHA-256.

    Raises `CheckpointError` if the file is absent, is not a manifest, or names a path outside the directory.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise CheckpointError(f"there is no manifest {path}; `serval checkpoint hash` writes one") from None
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
    """Compare `manifest` with the digests `found` of the files it lists; it does not list `extra` files."""
    return Difference(
        changed=tuple(file for file, digest in found.items() if manifest[file] != digest),
        missing=tuple(sorted(manifest.keys() - found.keys())),
        extra=tuple(extra),
    )
