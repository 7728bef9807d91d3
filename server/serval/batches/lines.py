"""Running the lines of batches: lease, run, record; wait and run again where that helps."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from serval.batches.folder import ContentFolder
from serval.batches.input_file import read_request
from serval.batches.leases import renewal_pause_s
from serval.batches.pace import CallerPaces
from serval.batches.verdict import Answer, result_of, retry_of
from serval.caller.identity import Identity
from serval.store.batch_lines import Line, LineResult, LineTable
from serval.store.database import reason_of

logger = logging.getLogger(__name__)
T = TypeVar("T")
U = TypeVar("U")

_DATABASE_PAUSE_S: Final = 1.0
_DEFECT_PAUSE_S: Final = 5.0
# Share of the room that has to be free before more are leased.
_LEAST_LEASED: Final = 0.25

# Answers a request of a caller to an endpoint, as if it had come by HTTP.
AnswerLine = Callable[[Identity, str, bytes], Awaitable[Answer]]


class LineRunner:
    """Runs lines on one event loop. `worker` names this process among those that lease lines."""

    def __init__(
        self,
        table: LineTable,
        folder: ContentFolder,
        answer: AnswerLine,
        *,
        worker: str,
        allowed: Callable[[int], int],
        most: int,
        count: Callable[[str], None],
        lease_s: int,
        poll_s: float,
    ) -> None:
        """`allowed` tells how many lines may run now, `most` at most; it gets the number that run.

        `count` is called with the outcome of each run: `completed`, `failed` or `retried`.
        """
        self._table = table
        self._folder = folder
        self._answer = answer
        self._worker = worker
        self._allowed = allowed
        self._most = most
        self._count = count
        self._lease_s = lease_s
        self._poll_s = poll_s
        # Leased lines by their key, until their result is recorded or they are given back.
        self._held: dict[tuple[str, int], Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._results: list[LineResult] = []
        self._returned: list[tuple[Line, bool]] = []
        self._changed = asyncio.Event()
        self._unsettled = asyncio.Event()
        self._paces = CallerPaces()
        self._paused_until = 0.0
        # No more lines are leased; and none runs any more.
        self._stopping = self._closing = False

    async def run(self, stop: asyncio.Event) -> None:
        """Run lines until `stop` is set; then record what has ended, and give the other leases back."""
        leasing, renewing, settling = [
            asyncio.create_task(each) for each in (self._lease(), self._renew(), self._settle())
        ]
        await stop.wait()
        self._stopping = True
        self._changed.set()
        await leasing
        renewing.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(renewing, *self._tasks, return_exceptions=True)
        self._closing = True
        self._unsettled.set()
        await settling
        ended = {(result.batch_id, result.number) for result in self._results}
        self._returned += [(line, False) for key, line in self._held.items() if key not in ended]
        await self._settle_these()

    async def _lease(self) -> None:
        while not self._stopping:
            self._changed.clear()
            wait_s = self._paused_until - time.monotonic()
            try:
                if wait_s <= 0 and await self._lease_some():
                    continue
            except Exception:
                # A defect; without this the task would end, and no line would be run any more.
                logger.exception("no lines of batches can be run")
                wait_s = _DEFECT_PAUSE_S
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wait_s, self._poll_s)):
                    await self._changed.wait()

    async def _lease_some(self) -> bool:
        """Lease and start lines, if there is room for more. Return False if none are started."""
        room = min(self._allowed(len(self._held)), self._most)
        free = room - len(self._held)
        # Not one by one, as each time the database is asked.
        if free < max(1, _LEAST_LEASED * room):
            return False
        lease = partial(self._table.lease, self._worker, free, lease_s=self._lease_s)
        leased = await self._from_database(partial(lease, at_most=self._paces.room()), otherwise=None)
        await self._start(leased or ())
        return bool(leased)

    async def _start(self, lines: Sequence[Line]) -> None:
        by_file: dict[str, list[Line]] = {}
        for line in lines:
            self._held[line.key] = line
            self._paces.begin(line.subject)
            by_file.setdefault(line.input_file_id, []).append(line)
        for file_id, of_file in by_file.items():
            spans = [(line.offset, line.length) for line in of_file]
            try:
                texts = await asyncio.to_thread(self._folder.read, file_id, spans)
            except OSError as error:
                logger.error("the input file %s of a batch cannot be read: %s", file_id, error.strerror)
                self._paused_until = time.monotonic() + _DATABASE_PAUSE_S
                for line in of_file:
                    self._paces.end(line.subject)
                    self._give_back(line)
                continue
            for line, text in zip(of_file, texts, strict=True):
                task = asyncio.create_task(self._run_line(line, text))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _run_line(self, line: Line, text: bytes) -> None:
        try:
            request = read_request(text)
            answer = await self._answer(Identity.from_json(line.caller), line.endpoint, bytes(request.body))
            retry = retry_of(answer, line.attempts)
            result = result_of(line, request.custom_id, answer) if retry is None else None
        except Exception:
            self._paces.end(line.subject)
            self._give_back(line)
            # A defect; the line is tried again until the batch expires.
            logger.exception("line %d of batch %s cannot be run", line.number, line.batch_id)
            self._paused_until = time.monotonic() + _DEFECT_PAUSE_S
            return
        self._paces.end(line.subject)
        if result is not None:
            self._paces.answered(line.subject, self._most)
            self._count("failed" if result.failed else "completed")
            self._results.append(result)
            self._unsettled.set()
            return
        assert retry is not None
        self._count("retried")
        if retry.of == "caller":
            self._paces.refused(line.subject, retry.wait_s)
        elif retry.of == "stop":
            self._stopping = True
        else:
            self._paused_until = time.monotonic() + retry.wait_s
        self._give_back(line, engine_failed=retry.of == "line")

    def _give_back(self, line: Line, *, engine_failed: bool = False) -> None:
        self._returned.append((line, engine_failed))
        self._unsettled.set()

    async def _settle(self) -> None:
        """Record results and give leases back as they come, until no line runs any more."""
        while not self._closing:
            await self._unsettled.wait()
            self._unsettled.clear()
            await self._settle_these()

    async def _settle_these(self) -> None:
        results, self._results = self._results, []
        returned, self._returned = self._returned, []
        while not await self._from_database(partial(self._settled, results, returned), otherwise=False):
            if self._closing:
                # Others take the lines over when their leases expire.
                return
        for line in [each for each, _ in returned]:
            self._held.pop(line.key, None)
        for result in results:
            self._held.pop((result.batch_id, result.number), None)
        self._changed.set()

    def _settled(self, results: Sequence[LineResult], returned: Sequence[tuple[Line, bool]]) -> bool:
        if results:
            self._table.record(results)
        for engine_failed in (False, True):
            lines = [line.key for line, failed in returned if failed == engine_failed]
            self._table.give_back(self._worker, lines, engine_failed=engine_failed)
        return True

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(renewal_pause_s(self._lease_s))
            held = list(self._held)
            await self._from_database(
                partial(self._table.renew, self._worker, held, lease_s=self._lease_s), otherwise=None
            )

    async def _from_database(self, work: Callable[[], T], *, otherwise: U) -> T | U:
        """Do the work in a thread, and return its result; `otherwise`, after a pause, if that fails."""
        try:
            # Shielded: what the thread does goes on anyway, and has to be known.
            return await asyncio.shield(asyncio.to_thread(work))
        except SQLAlchemyError as error:
            logger.warning("the key database failed for batches, they wait: %s", reason_of(error))
            await asyncio.sleep(_DATABASE_PAUSE_S)
            return otherwise
