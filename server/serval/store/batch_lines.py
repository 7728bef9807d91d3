"""Lines of batches: leases, so that each is run by one process at a time, and results, recorded once.

A process leases lines for a while and renews its leases while it lives; lines of one that was killed are
leased to others when its leases have expired. A line may thus be computed twice, but a result is recorded
only for a line that has none: the same transaction changes the state of the line, keeps the result and adds
to the batch's sums.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Engine, exists, func, select, tuple_, update

from serval.store.compression import compressed, uncompressed
from serval.store.database import transaction
from serval.store.tables import BATCH_SUMS, batch_lines, batches

# States of a line.
WAITING: Final = 0
LEASED: Final = 1
DONE: Final = 2
FAILED: Final = 3
# The batch was cancelled or expired before the line was run.
UNEXECUTED: Final = 4
_PAGE: Final = 200


class LineStart(NamedTuple):
    """Number of a line from 1, and its place in the input file in bytes."""

    number: int
    offset: int
    length: int


class Line(NamedTuple):
    """A leased line. `caller` is the owner's identity as JSON."""

    number: int
    offset: int
    length: int
    attempts: int
    batch_id: str
    subject: str
    caller: str
    endpoint: str
    input_file_id: str

    @property
    def key(self) -> tuple[str, int]:
        """Its place among all lines."""
        return self.batch_id, self.number


class LineResult(NamedTuple):
    """Result of a line: the line of the output file, or of the error file if it `failed`; and its tokens."""

    batch_id: str
    number: int
    failed: bool
    text: bytes
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class LineOutcome(NamedTuple):
    """A line of a batch that is being finalized. `text` is None if it was not run."""

    number: int
    offset: int
    length: int
    failed: bool
    text: bytes | None


class LineTable:
    """The table. Safe to use from several threads and processes. Raises SQLAlchemy's errors."""

    def __init__(self, engine: Engine, *, now: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = now

    def lease(
        self, worker: str, most: int, *, lease_s: int, at_most: Mapping[str, int] | None = None
    ) -> Sequence[Line]:
        """Lease at most `most` lines; subjects have equal shares, and those in `at_most` no more than that.

        Lines of a subject come from its oldest batch that has some.
        """
        bounds = at_most or {}
        full = [subject for subject, bound in bounds.items() if bound <= 0]
        now = int(self._now())
        found: list[Line] = []
        with self._engine.connect() as connection:
            open_batches = _open_batches(connection, now, full)
        for index, mine in enumerate(open_batches):
            share = -(-(most - len(found)) // (len(open_batches) - index))
            share = min(share, bounds.get(mine[0].subject, share))
            for batch in mine:
                if share <= 0:
                    break
                rows = self._lease_of(batch.id, worker, share, now=now, lease_s=lease_s)
                share -= len(rows)
                found += [Line(*row, *batch) for row in rows]
        return found

    def _lease_of(self, batch_id: str, worker: str, most: int, *, now: int, lease_s: int) -> list[Any]:
        columns = batch_lines.c
        free = (columns.state == WAITING, (columns.state == LEASED) & (columns.lease_until <= now))
        running = exists().where(
            batches.c.id == batch_id, batches.c.status == "in_progress", batches.c.expires_at > now
        )
        found: list[Any] = []
        # One after the other, as an index then finds each.
        for condition in free:
            if len(found) == most:
                break
            picked = (
                select(columns.number)
                .where(columns.batch_id == batch_id, condition, running)
                .order_by(columns.number)
                .limit(most - len(found))
                # Without effect in SQLite, where the whole statement is alone.
                .with_for_update(of=batch_lines, skip_locked=True)
                .cte("picked")
            )
            lease = (
                update(batch_lines)
                .where(columns.batch_id == batch_id, columns.number.in_(select(picked.c.number)))
                .values(state=LEASED, worker=worker, lease_until=now + lease_s)
                .returning(columns.number, columns.offset, columns.length, columns.attempts)
            )
            with transaction(self._engine) as connection:
                found += connection.execute(lease).all()
        return sorted(found)

    def renew(self, worker: str, lines: Collection[tuple[str, int]], *, lease_s: int) -> None:
        """Renew the worker's leases of these lines."""
        self._change(worker, lines, lease_until=int(self._now()) + lease_s)

    def give_back(
        self, worker: str, lines: Collection[tuple[str, int]], *, engine_failed: bool = False
    ) -> None:
        """Give the worker's leases of these lines back; `engine_failed` counts an attempt."""
        attempts = batch_lines.c.attempts + int(engine_failed)
        self._change(worker, lines, state=WAITING, worker=None, lease_until=0, attempts=attempts)

    def _change(self, mine: str, lines: Collection[tuple[str, int]], **values: Any) -> None:
        if not lines:
            return
        columns = batch_lines.c
        these = tuple_(columns.batch_id, columns.number).in_(sorted(lines))
        with transaction(self._engine) as connection:
            leased = (these, columns.state == LEASED, columns.worker == mine)
            connection.execute(update(batch_lines).where(*leased).values(values))

    def record(self, results: Sequence[LineResult]) -> int:
        """Record results, all or nothing, but for lines that have one; return how many were recorded."""
        recorded = 0
        with transaction(self._engine) as connection:
            # Sorted, so that processes cannot deadlock: PostgreSQL locks row by row.
            ordered = sorted(results, key=lambda result: (result.batch_id, result.number))
            for batch_id, of_batch in groupby(ordered, key=lambda result: result.batch_id):
                # The batch before its lines, as `BatchTable.finalize_ended` does.
                connection.execute(select(batches.c.id).where(batches.c.id == batch_id).with_for_update())
                sums: Counter[str] = Counter()
                for result in of_batch:
                    if _record_one(connection, result):
                        recorded += 1
                        sums["failed" if result.failed else "completed"] += 1
                        sums.update({name: getattr(result, name) for name in BATCH_SUMS[2:]})
                added = {name: batches.c[name] + sums[name] for name in BATCH_SUMS}
                connection.execute(update(batches).where(batches.c.id == batch_id).values(added))
        return recorded

    def outcomes(self, batch_id: str) -> Iterator[LineOutcome]:
        """The lines of a batch that is being finalized, in the order of the input file."""
        columns = batch_lines.c
        last = 0
        while True:
            query = (
                select(columns.number, columns.offset, columns.length, columns.state, columns.result)
                .where(columns.batch_id == batch_id, columns.number > last)
                .order_by(columns.number)
                .limit(_PAGE)
            )
            with self._engine.connect() as connection:
                rows = connection.execute(query).all()
            for row in rows:
                text = None if row.result is None else uncompressed(row.result)
                yield LineOutcome(row.number, row.offset, row.length, row.state != DONE, text)
            if len(rows) < _PAGE:
                return
            last = rows[-1].number


def _open_batches(connection: Connection, now: int, without: Collection[str]) -> list[list[Any]]:
    """Batches with lines to run, the oldest first, in a list for each subject; busy subjects come last."""
    query = (
        select(batches.c.id, batches.c.subject, batches.c.caller, batches.c.endpoint, batches.c.input_file_id)
        .where(
            batches.c.status == "in_progress",
            batches.c.expires_at > now,
            batches.c.subject.not_in(list(without)),
        )
        .order_by(batches.c.created_at, batches.c.id)
    )
    by_subject: dict[str, list[Any]] = {}
    for row in connection.execute(query):
        by_subject.setdefault(row.subject, []).append(row)
    if len(by_subject) < 2:
        return list(by_subject.values())
    leased = (
        select(batches.c.subject, func.count())
        .join_from(batches, batch_lines, batches.c.id == batch_lines.c.batch_id)
        .where(
            batches.c.status == "in_progress", batch_lines.c.state == LEASED, batch_lines.c.lease_until > now
        )
        .group_by(batches.c.subject)
    )
    busy = {subject: number for subject, number in connection.execute(leased)}
    return [by_subject[subject] for subject in sorted(by_subject, key=lambda name: busy.get(name, 0))]


def _record_one(connection: Connection, result: LineResult) -> bool:
    columns = batch_lines.c
    here = (columns.batch_id == result.batch_id, columns.number == result.number)
    values = {
        "state": FAILED if result.failed else DONE,
        "result": compressed(result.text),
        "worker": None,
        "lease_until": 0,
    }
    open_line = update(batch_lines).where(*here, columns.state.in_((WAITING, LEASED)))
    return bool(connection.execute(open_line.values(values)).rowcount)
