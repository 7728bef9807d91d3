"""Files that keep the batches of a process should it be killed; see `serval.usage`.

A file is called `WRITER.SEQUENCE`. Each line is a JSON array: subject, model, hour, list of counts. The
process holds a lock on the file (`flock`), which ends with the process.
"""

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from serval.store.tables import USAGE_COUNTS
from serval.store.usage import Counts, Slot

# A file is written anew, with one line for each row, when it has grown beyond this and doubled since.
COMPACT_BYTES: Final = 8 << 20
_NAME: Final = re.compile(r"([0-9a-f]{32})\.(\d+)")
_ADOPTION: Final = "adoption.lock"
logger = logging.getLogger(__name__)
_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(tuple[str, str, int, list[int]])


class Journal:
    """The file of one batch. Its methods raise `OSError`."""

    def __init__(self, folder: Path, writer: str, sequence: int) -> None:
        """Create the file. `writer` has 32 hexadecimal digits."""
        self._path = folder / f"{writer}.{sequence}"
        self._compact_at = COMPACT_BYTES
        self._descriptor = self._made(b"")

    def append(self, slot: Slot, counts: Counts) -> bool:
        """Add a line. Return True if the file should be written anew, see `compact`."""
        line = _line(slot, counts)
        if os.write(self._descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, "a line was written in part")
        self._size += len(line)
        return self._size > self._compact_at

    def compact(self, rows: Mapping[Slot, Counts]) -> None:
        """Replace all lines by the sums of them."""
        former = self._descriptor
        self._descriptor = self._made(b"".join(_line(slot, counts) for slot, counts in rows.items()))
        self._compact_at = max(COMPACT_BYTES, 2 * self._size)
        os.close(former)

    def remove(self) -> None:
        """Delete the file: its batch is in the database."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave the file to other processes."""
        os.close(self._descriptor)

    def _made(self, content: bytes) -> int:
        """Create the file with `content` and lock it, before it has the name by which others find it."""
        new = self._path.with_suffix(self._path.suffix + ".new")
        descriptor = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
            new.rename(self._path)
        except BaseException:
            os.close(descriptor)
            raise
        self._size = len(content)
        return descriptor


class LeftBatch(NamedTuple):
    """A batch of a process that has ended."""

    path: Path
    writer: str
    sequence: int
    rows: Mapping[Slot, Counts]


@contextmanager
def left_batches(folder: Path) -> Iterator[list[LeftBatch]]:
    """The batches that processes have left, each writer's in their order. Raises `OSError`.

    While entered, other processes find none: a writer's batches must be added in their order.
    """
    with (folder / _ADOPTION).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield []
            return
        found = [
            (match[1], int(match[2]), path)
            for path in folder.iterdir()
            if (match := _NAME.fullmatch(path.name)) is not None and _is_left(path)
        ]
        yield [LeftBatch(path, writer, number, _rows(path)) for writer, number, path in sorted(found)]


def _is_left(path: Path) -> bool:
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another file may have taken its place, of a process that lives; see `Journal.compact`.
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _rows(path: Path) -> Mapping[Slot, Counts]:
    rows: dict[Slot, Counts] = {}
    # The rest after the last line feed is a line that its process could not finish.
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            subject, model, hour, counts = _decoder.decode(line)
        except msgspec.MsgspecError:
            logger.error("a line of the usage journal %s cannot be read", path.name)
            continue
        slot = Slot(subject, model, hour)
        # A release without costs wrote fewer counts.
        counts += [0] * (len(USAGE_COUNTS) - len(counts))
        before = rows.get(slot, (0,) * len(USAGE_COUNTS))
        rows[slot] = [one + other for one, other in zip(before, counts, strict=True)]
    return rows


def _line(slot: Slot, counts: Counts) -> bytes:
    return _encoder.encode((*slot, counts)) + b"\n"
