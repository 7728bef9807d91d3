"""Folder with the contents of files, which all gateways share; their rows are in the key database."""

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from serval.errors import SettingsError

# Names of files that are being written begin with it.
_PART: Final = ".part-"


class ContentFolder:
    """The folder. Its methods raise `OSError`. Names are ids of files."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path_of(self, file_id: str) -> Path:
        """Path of the file's content."""
        return self._path / file_id

    @contextmanager
    def writing(self, file_id: str) -> Iterator[IO[bytes]]:
        """A new file to be written, which has its name and is on the disk at the end of the block.

        If the block raises, there is no such file.
        """
        part = self._path / f"{_PART}{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                yield file
                write_out(file)
            part.rename(self.path_of(file_id))
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def read(self, file_id: str, spans: Iterable[tuple[int, int]]) -> list[bytes]:
        """Pieces of the file: each is an offset and a length in bytes."""
        pieces = []
        with self.path_of(file_id).open("rb") as file:
            for offset, length in spans:
                file.seek(offset)
                pieces.append(file.read(length))
        return pieces

    def remove(self, file_id: str) -> None:
        """Delete the content, if there is one."""
        self.path_of(file_id).unlink(missing_ok=True)

    def remove_strays(self, known: Callable[[Sequence[str]], set[str]], *, older_than_s: float) -> int:
        """Delete what processes that were killed have left: old files that are not `known`."""
        before = time.time() - older_than_s
        old = [entry.name for entry in os.scandir(self._path) if entry.stat().st_mtime < before]
        # Nothing else that an operator may have put there.
        ours = [name for name in old if name.startswith((_PART, "file-"))]
        kept = known(ours)
        strays = [name for name in ours if name not in kept]
        for name in strays:
            self.remove(name)
        return len(strays)


def write_out(file: IO[bytes]) -> None:
    """Have what was written on the disk, which may take seconds."""
    file.flush()
    os.fsync(file.fileno())


def open_folder(path: Path) -> ContentFolder:
    """Create the folder if there is none. Raises `SettingsError` if it cannot be written."""
    folder = ContentFolder(path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = f"{_PART}{secrets.token_hex(8)}"
        with folder.writing(probe):
            pass
        folder.remove(probe)
    except OSError as error:
        raise SettingsError(
            f"SERVAL_BATCH_FOLDER: the folder {str(path)!r} cannot be used: {error.strerror}"
        ) from None
    return folder
