"""Batches in the database: creation, lists, cancelling, and the steps of their lives.

A batch is `validating` until one process has checked its lines; `in_progress` while processes run them
(`serval.store.batch_lines`); `finalizing` while one process writes the files. A process does the first and
the last step under a lease, and its end counts only if no other has done the step meanwhile.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import (
    Engine,
    Row,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from serval.store.batch_errors import FullError
from serval.store.batch_lines import LEASED, UNEXECUTED, WAITING, LineStart
from serval.store.database import transaction
from serval.store.files import OPEN_STATUSES, StoredFile, add_file
from serval.store.page import page
from serval.store.tables import batch_lines, batches

_ID: Final = re.compile(r"batch_[0-9a-f]{32}")
_ENDED: Final = ("completed", "failed", "expired", "cancelled")
_LINES_AT_ONCE: Final = 1000


Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]


@dataclass(frozen=True)
class Batch:
    """A batch. Times are Unix time; `errors` are OpenAI's objects of validation."""

    id: str
    subject: str
    # The owner's identity at the time of creation, as JSON.
    caller: str
    endpoint: str
    input_file_id: str
    status: Status
    created_at: int
    expires_at: int
    output_keep_s: int
    metadata: Mapping[str, str] | None = None
    model: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: Sequence[Mapping[str, Any]] | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class BatchTable:
    """The table. Safe to use from several threads and processes. Raises SQLAlchemy's errors.

    Where a `subject` is given, that subject's batches alone are seen.
    """

    def __init__(self, engine: Engine, *, now: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = now

    def create(
        self,
        subject: str,
        *,
        caller: str,
        endpoint: str,
        input_file_id: str,
        window_s: int,
        output_keep_s: int,
        metadata: Mapping[str, str] | None,
        max_open: int,
    ) -> Batch:
        """Create a batch that is to be validated. Raises `FullError` if over `max_open` have not ended."""
        now = int(self._now())
        batch = Batch(
            id=f"batch_{secrets.token_hex(16)}",
            subject=subject,
            caller=caller,
            endpoint=endpoint,
            input_file_id=input_file_id,
            status="validating",
            created_at=now,
            expires_at=now + window_s,
            output_keep_s=output_keep_s,
            metadata=metadata,
        )
        values = {**vars(batch), "metadata": None if metadata is None else json.dumps(dict(metadata))}
        is_open = (batches.c.subject == subject, batches.c.status.in_(OPEN_STATUSES))
        with transaction(self._engine) as connection:
            connection.execute(insert(batches).values({**values, "lease_until": 0}))
            if connection.execute(select(func.count()).where(*is_open)).scalar_one() > max_open:
                raise FullError
        return batch

    def find(self, batch_id: str, *, subject: str | None = None) -> Batch | None:
        """Return the batch, or None if there is none."""
        if not _ID.fullmatch(batch_id):
            return None
        query = _of(subject).where(batches.c.id == batch_id)
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else _batch(row)

    def list(
        self, *, subject: str | None = None, limit: int = 20, after: str | None = None
    ) -> list[Batch] | None:
        """Batches, the newest first, from behind the batch `after`; None if there is no such batch."""
        if after is not None and not _ID.fullmatch(after):
            return None
        with self._engine.connect() as connection:
            rows = page(connection, _of(subject), batches, limit=limit, after=after)
        return None if rows is None else [_batch(row) for row in rows]

    def counts(self, *, subject: str | None = None) -> dict[str, int]:
        """Number of batches by status, of statuses that occur."""
        query = select(batches.c.status, func.count()).group_by(batches.c.status)
        if subject is not None:
            query = query.where(batches.c.subject == subject)
        with self._engine.connect() as connection:
            return {status: number for status, number in connection.execute(query)}

    def cancel(self, batch_id: str, *, subject: str | None = None) -> Batch | None:
        """Begin to cancel the batch, unless it has ended or its files are being written.

        Lines that run are finished. Return the batch as it then is, or None if there is none.
        """
        if not _ID.fullmatch(batch_id):
            return None
        mine = [batches.c.id == batch_id, *([] if subject is None else [batches.c.subject == subject])]
        begun = batches.c.status.in_(("validating", "in_progress"))
        with transaction(self._engine) as connection:
            cancelled = {"status": "cancelling", "cancelling_at": int(self._now())}
            connection.execute(update(batches).where(*mine, begun).values(cancelled))
            row = connection.execute(select(batches).where(*mine)).first()
        return None if row is None else _batch(row)

    def take_task(self, worker: str, *, lease_s: int) -> Batch | None:
        """Lease a batch that is to be validated or finalized, the oldest first; None if there is none."""
        now = int(self._now())
        free = and_(batches.c.status.in_(("validating", "finalizing")), batches.c.lease_until <= now)
        with transaction(self._engine) as connection:
            found = select(batches).where(free).order_by(batches.c.created_at).limit(1)
            row = connection.execute(found).first()
            if row is None:
                return None
            lease = update(batches).where(batches.c.id == row.id, free)
            taken = connection.execute(lease.values(worker=worker, lease_until=now + lease_s)).rowcount
        return _batch(row) if taken else None

    def renew_tasks(self, worker: str, *, lease_s: int) -> None:
        """Renew the leases of the worker's tasks; 0 gives them back."""
        mine = (batches.c.worker == worker, batches.c.status.in_(("validating", "finalizing")))
        with transaction(self._engine) as connection:
            until = int(self._now()) + lease_s
            connection.execute(update(batches).where(*mine).values(lease_until=until))

    def accept(self, batch_id: str, lines: Sequence[LineStart], *, model: str | None) -> bool:
        """Begin to run a validated batch. Return False, without a change, if it is validating no more."""
        values = {"status": "in_progress", "in_progress_at": int(self._now()), "total": len(lines)}
        with transaction(self._engine) as connection:
            if not _step(connection, batch_id, "validating", {**values, "model": model, "lease_until": 0}):
                return False
            for first in range(0, len(lines), _LINES_AT_ONCE):
                rows = [
                    {
                        "batch_id": batch_id,
                        **line._asdict(),
                        "state": WAITING,
                        "lease_until": 0,
                        "attempts": 0,
                    }
                    for line in lines[first : first + _LINES_AT_ONCE]
                ]
                connection.execute(insert(batch_lines), rows)
        return True

    def refuse(self, batch_id: str, errors: Sequence[Mapping[str, Any]]) -> bool:
        """End a batch that is not valid. Return False, without a change, if it is validating no more."""
        values = {"status": "failed", "failed_at": int(self._now()), "errors": json.dumps(list(errors))}
        with transaction(self._engine) as connection:
            return _step(connection, batch_id, "validating", values)

    def finalize_ended(self) -> int:
        """Begin to finalize the batches of which nothing remains to be run; return their number.

        Their lines that were not run are marked as such and count as failed.
        """
        now = int(self._now())
        in_use = exists().where(
            batch_lines.c.batch_id == batches.c.id,
            batch_lines.c.state == LEASED,
            batch_lines.c.lease_until > now,
        )
        over = or_(
            batches.c.status == "cancelling",
            and_(
                batches.c.status == "in_progress",
                or_(batches.c.completed + batches.c.failed >= batches.c.total, batches.c.expires_at <= now),
            ),
        )
        begun = 0
        with self._engine.connect() as connection:
            ended = connection.execute(select(batches.c.id, batches.c.status).where(over, ~in_use)).all()
        for batch_id, status in ended:
            with transaction(self._engine) as connection:
                values = {"status": "finalizing", "finalizing_at": now, "lease_until": 0}
                if not _step(connection, batch_id, status, values):
                    continue
                rest = (batch_lines.c.batch_id == batch_id, batch_lines.c.state.in_((WAITING, LEASED)))
                marked = connection.execute(update(batch_lines).where(*rest).values(state=UNEXECUTED))
                lost = batches.c.failed + marked.rowcount
                connection.execute(update(batches).where(batches.c.id == batch_id).values(failed=lost))
                begun += 1
        return begun

    def end(self, batch: Batch, *, output: StoredFile | None, error: StoredFile | None, whole: bool) -> bool:
        """End a batch whose files are written. Return False if another process has ended it.

        `whole`: all of its lines were run.
        """
        now = int(self._now())
        status = "cancelled" if batch.cancelling_at is not None else "completed" if whole else "expired"
        values = {
            "status": status,
            f"{status}_at": now,
            "output_file_id": None if output is None else output.id,
            "error_file_id": None if error is None else error.id,
        }
        with transaction(self._engine) as connection:
            if not _step(connection, batch.id, "finalizing", values):
                return False
            for file in (output, error):
                if file is not None:
                    add_file(connection, file)
            connection.execute(delete(batch_lines).where(batch_lines.c.batch_id == batch.id))
        return True

    def forget(self, *, keep_s: int) -> int:
        """Delete batches that ended and were created over `keep_s` ago. Return their number."""
        old = (batches.c.status.in_(_ENDED), batches.c.created_at <= int(self._now()) - keep_s)
        with transaction(self._engine) as connection:
            return connection.execute(delete(batches).where(*old)).rowcount


def _step(connection: Any, batch_id: str, before: str, values: Mapping[str, Any]) -> bool:
    """Change the batch if its status is `before`. Return False if it is not."""
    at = (batches.c.id == batch_id, batches.c.status == before)
    return bool(connection.execute(update(batches).where(*at).values(values)).rowcount)


def _of(subject: str | None) -> Any:
    return select(batches) if subject is None else select(batches).where(batches.c.subject == subject)


def _batch(row: Row[Any]) -> Batch:
    values = dict(row._mapping)
    del values["worker"], values["lease_until"]
    for name in ("metadata", "errors"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return Batch(**values)
