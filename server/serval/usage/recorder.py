"""Counting of requests, and the writing of their sums to the database; see `serval.usage`."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from serval.store.usage import HOUR_S, Slot, UsageTable
from serval.telemetry.record import RequestRecord
from serval.usage.batch import Batch
from serval.usage.journal import left_batches

logger = logging.getLogger(__name__)

WRITE_EVERY_S: Final = 1.0
# How often batches of ended processes are looked for, in writes.
_ADOPT_EVERY: Final = 10
_DAY_HOURS: Final = 24


class UsageRecorder:
    """The usage of one process. All but `lifespan`'s work in threads is done on one event loop."""

    def __init__(
        self,
        table: UsageTable,
        *,
        model: str,
        keep_days: int,
        journal: Path | None,
        dropped: Callable[[int, int], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Usage is deleted after `keep_days`; `journal` is the folder of the journal's files, which exists.

        `dropped` is called with the numbers of requests and tokens that were left out.
        """
        self._table = table
        self._model = model
        self._keep_days = keep_days
        self._folder = journal
        self._dropped = dropped
        self._now = now
        self._writer = secrets.token_hex(16)
        self._batch = Batch(journal, self._writer, 1)
        # The batch that is being written, until it is in the database.
        self._writing: Batch | None = None
        self._lost_requests = self._lost_tokens = 0
        self._forgotten_at = 0

    def count(self, record: RequestRecord) -> None:
        """Count a request whose answer ends now; a second call changes nothing."""
        subject = record.subject
        if subject is None or record.is_counted:
            return
        record.is_counted = True
        slot = Slot(subject, self._model, int((self._now() - record.elapsed_s()) // HOUR_S))
        counts = (
            1,
            record.prompt_tokens,
            record.cached_tokens,
            record.completion_tokens,
            record.tool_calls_complete + record.tool_calls_truncated + record.tool_calls_invalid,
            int(record.error_code is not None),
            record.cost,
        )
        if not self._batch.add(slot, counts):
            self._lose(1, record.prompt_tokens + record.completion_tokens)

    def _lose(self, requests: int, tokens: int) -> None:
        self._lost_requests += requests
        self._lost_tokens += tokens
        self._dropped(requests, tokens)

    async def write(self) -> None:
        """Write the batch, or the one before that could not be written. Raises SQLAlchemy's errors."""
        if self._writing is None:
            if not self._batch.rows:
                return
            self._writing = self._batch
            self._batch = Batch(self._folder, self._writer, self._writing.sequence + 1)
        batch = self._writing
        await asyncio.to_thread(
            self._table.add, self._writer, batch.sequence, batch.rows, hour=self._present_hour()
        )
        self._writing = None
        batch.forget()

    async def adopt(self) -> None:
        """Write the batches of processes that have ended. Raises SQLAlchemy's errors and `OSError`."""
        if self._folder is not None:
            await asyncio.to_thread(adopt, self._folder, self._table, self._present_hour())

    async def forget_old(self) -> None:
        """Delete old usage, once an hour. Raises SQLAlchemy's errors."""
        hour = self._present_hour()
        if hour != self._forgotten_at:
            await asyncio.to_thread(self._table.forget, hour - self._keep_days * _DAY_HOURS)
            self._forgotten_at = hour

    def _present_hour(self) -> int:
        return int(self._now() // HOUR_S)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Write every second while entered, and what is left at the end."""
        stop = asyncio.Event()
        writer = asyncio.create_task(self._write_until(stop))
        try:
            yield
        finally:
            stop.set()
            await writer
            await self._finish()

    async def _write_until(self, stop: asyncio.Event) -> None:
        failing = False
        turn = 0
        while not stop.is_set():
            try:
                await self.write()
                if turn % _ADOPT_EVERY == 0:
                    await self.adopt()
                    await self.forget_old()
                failing = False
            except (SQLAlchemyError, OSError) as error:
                if not failing:
                    logger.warning("usage cannot be written, it is kept: %s", type(error).__name__)
                failing = True
            except Exception:
                # A defect; without this the task would end, and nothing would be written any more.
                logger.exception("usage cannot be written, it is kept")
            self._report_losses()
            turn += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), WRITE_EVERY_S)

    async def _finish(self) -> None:
        """Write both batches. Those that cannot be are left to the journal or, without one, lost."""
        try:
            await self.write()
            await self.write()
        except SQLAlchemyError as error:
            logger.warning("usage cannot be written at the end: %s", type(error).__name__)
        for batch in (self._writing, self._batch):
            if batch is not None and not batch.is_kept:
                for requests, prompt, _, completion, *_ in batch.rows.values():
                    self._lose(requests, prompt + completion)
            if batch is not None:
                batch.leave()
        self._report_losses()

    def _report_losses(self) -> None:
        if self._lost_requests:
            fields = {"requests": self._lost_requests, "tokens": self._lost_tokens}
            logger.error("usage was dropped", extra={"fields": fields})
            self._lost_requests = self._lost_tokens = 0


def adopt(folder: Path, table: UsageTable, hour: int) -> None:
    """Write the batches that processes have left in `folder`; `hour` is the present one.

    Raises SQLAlchemy's errors and `OSError`.
    """
    with left_batches(folder) as batches:
        for batch in batches:
            added = table.add(batch.writer, batch.sequence, batch.rows, hour=hour)
            batch.path.unlink(missing_ok=True)
            if added:
                requests = sum(counts[0] for counts in batch.rows.values())
                logger.warning("usage of a process that ended is written: %d requests", requests)
