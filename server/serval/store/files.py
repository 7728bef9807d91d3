"""Files of batches in the database; their contents are in a folder (`serval.batches.folder`)."""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, Row, delete, exists, func, insert, select

from serval.store.batch_errors import FileInUseError, FullError
from serval.store.database import transaction
from serval.store.page import page
from serval.store.tables import batches, files

Purpose = Literal["batch", "batch_output"]
# Statuses of batches that have not ended, and whose input file is needed.
OPEN_STATUSES: Final = ("validating", "in_progress", "finalizing", "cancelling")
# Not every text can be a parameter: PostgreSQL refuses NUL.
_ID: Final = re.compile(r"file-[0-9a-f]{32}")
_MOST_EXPIRED: Final = 1000


@dataclass(frozen=True)
class StoredFile:
    """A file. Times are Unix time."""

    id: str
    subject: str
    purpose: Purpose
    filename: str
    bytes: int
    created_at: int
    expires_at: int


def new_file_id() -> str:
    """Return the id of a new file."""
    return f"file-{secrets.token_hex(16)}"


class FileTable:
    """The table. Safe to use from several threads and processes. Raises SQLAlchemy's errors.

    A subject sees its own files alone.
    """

    def __init__(self, engine: Engine, *, now: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = now

    def add(
        self, file_id: str, subject: str, *, filename: str, size: int, keep_s: int, max_bytes: int
    ) -> StoredFile:
        """Add an uploaded file. Raises `FullError` if the subject's files then have over `max_bytes`."""
        now = int(self._now())
        file = StoredFile(file_id, subject, "batch", filename, size, now, now + keep_s)
        with transaction(self._engine) as connection:
            add_file(connection, file)
            if _stored_bytes(connection, subject) > max_bytes:
                raise FullError
        return file

    def stored_bytes(self, subject: str) -> int:
        """Size of all files of the subject."""
        with self._engine.connect() as connection:
            return _stored_bytes(connection, subject)

    def find(self, subject: str, file_id: str) -> StoredFile | None:
        """Return the file, or None if the subject has no such file."""
        if not _ID.fullmatch(file_id):
            return None
        query = select(files).where(files.c.id == file_id, files.c.subject == subject, self._is_kept())
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else _stored(row)

    def list(
        self, subject: str, *, limit: int, after: str | None, purpose: str | None, newest_first: bool
    ) -> list[StoredFile] | None:
        """Files from behind the file `after`; None if there is no such file."""
        if after is not None and not _ID.fullmatch(after):
            return None
        query = select(files).where(files.c.subject == subject, self._is_kept())
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        with self._engine.connect() as connection:
            rows = page(connection, query, files, limit=limit, after=after, newest_first=newest_first)
        return None if rows is None else [_stored(row) for row in rows]

    def remove(self, subject: str, file_id: str) -> bool:
        """Delete the file. Return False if there is none. Raises `FileInUseError`."""
        if not _ID.fullmatch(file_id):
            return False
        with transaction(self._engine) as connection:
            removed = delete(files).where(files.c.id == file_id, files.c.subject == subject, self._is_kept())
            if not connection.execute(removed).rowcount:
                return False
            if connection.execute(select(_is_needed(file_id))).scalar_one():
                raise FileInUseError
        return True

    def remove_expired(self) -> Sequence[str]:
        """Delete the files that have expired, but for input of batches that run. Return their ids."""
        needed = exists().where(batches.c.input_file_id == files.c.id, batches.c.status.in_(OPEN_STATUSES))
        expired = select(files.c.id).where(files.c.expires_at <= int(self._now()), ~needed)
        with transaction(self._engine) as connection:
            ids = list(connection.execute(expired.limit(_MOST_EXPIRED)).scalars())
            connection.execute(delete(files).where(files.c.id.in_(ids)))
        return ids

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that are files."""
        with self._engine.connect() as connection:
            return set(connection.execute(select(files.c.id).where(files.c.id.in_(list(ids)))).scalars())

    def _is_kept(self) -> Any:
        return files.c.expires_at > int(self._now())


def add_file(connection: Connection, file: StoredFile) -> None:
    """Add the row of a file."""
    connection.execute(insert(files).values(vars(file)))


def _stored_bytes(connection: Connection, subject: str) -> int:
    total = select(func.sum(files.c.bytes)).where(files.c.subject == subject)
    return int(connection.execute(total).scalar_one() or 0)


def _is_needed(file_id: str) -> Any:
    return exists().where(batches.c.input_file_id == file_id, batches.c.status.in_(OPEN_STATUSES))


def _stored(row: Row[Any]) -> StoredFile:
    return StoredFile(**row._mapping)
