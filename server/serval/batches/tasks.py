"""Steps of a batch that one process does: validating its input, and writing its files; and cleaning up."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import IO, Any, Final

from sqlalchemy.exc import SQLAlchemyError

from serval.batches.folder import ContentFolder
from serval.batches.input_file import CheckBody, InputCheck, lines_of, read_request
from serval.batches.leases import renewal_pause_s
from serval.batches.verdict import unexecuted_line
from serval.caller.identity import Identity
from serval.store.batch_lines import LineOutcome, LineTable
from serval.store.batches import Batch, BatchTable
from serval.store.database import reason_of
from serval.store.files import FileTable, StoredFile, new_file_id

logger = logging.getLogger(__name__)

_CLEAN_EVERY_S: Final = 60.0
_STRAY_S: Final = 86_400.0
# Lines are checked in a thread, in pieces of so many bytes, with a pause as long as each took: Python runs
# one thread at a time, and requests should not notice.
_PIECE_BYTES: Final = 1 << 16
_PAUSE_S: Final = 2.0

# Returns the check of bodies of a caller's requests to an endpoint.
Checks = Callable[[Identity, str], CheckBody]


class TaskRunner:
    """Does these steps on one event loop. `worker` names this process among those that lease them."""

    def __init__(
        self,
        batches: BatchTable,
        lines: LineTable,
        files: FileTable,
        folder: ContentFolder,
        checks: Checks,
        *,
        worker: str,
        model: str,
        max_lines: int,
        keep_s: int,
        show: Callable[[Mapping[str, int]], None],
        lease_s: int,
        poll_s: float,
    ) -> None:
        """Batches that have ended are forgotten after `keep_s`.

        `show` is called now and then with the number of batches by status.
        """
        self._batches = batches
        self._lines = lines
        self._files = files
        self._folder = folder
        self._checks = checks
        self._worker = worker
        self._model = model
        self._max_lines = max_lines
        self._keep_s = keep_s
        self._show = show
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._cleaned_at = -_CLEAN_EVERY_S

    async def run(self, stop: asyncio.Event) -> None:
        """Do what there is to do until `stop` is set."""
        renewing = asyncio.create_task(self._renew())
        while not stop.is_set():
            try:
                busy = await self._step()
            except (SQLAlchemyError, OSError) as error:
                reason = reason_of(error) if isinstance(error, SQLAlchemyError) else str(error)
                logger.warning("a step of batches failed and is repeated: %s", reason)
                await self._pause(stop, _PAUSE_S)
            except Exception:
                # A defect; without this the task would end, and no batch would go on any more.
                logger.exception("a step of batches failed and is repeated")
                await self._pause(stop, _PAUSE_S)
            else:
                if not busy:
                    await self._pause(stop, self._poll_s)
        renewing.cancel()
        with suppress(SQLAlchemyError):
            await asyncio.to_thread(self._batches.renew_tasks, self._worker, lease_s=0)

    @staticmethod
    async def _pause(stop: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()

    async def _step(self) -> bool:
        """Do one step. Return False if there was nothing to do."""
        if time.monotonic() - self._cleaned_at >= _CLEAN_EVERY_S:
            self._cleaned_at = time.monotonic()
            await asyncio.to_thread(self._clean)
        begun = await asyncio.to_thread(self._batches.finalize_ended)
        batch = await asyncio.to_thread(self._batches.take_task, self._worker, lease_s=self._lease_s)
        if batch is not None and batch.status == "validating":
            await self._validate(batch)
        elif batch is not None:
            await asyncio.to_thread(self._finish, batch)
        if batch is not None or begun:
            self._show(await asyncio.to_thread(self._batches.counts))
        return batch is not None

    async def _validate(self, batch: Batch) -> None:
        identity = Identity.from_json(batch.caller)
        check = InputCheck(batch.endpoint, self._checks(identity, batch.endpoint), max_lines=self._max_lines)
        with self._folder.path_of(batch.input_file_id).open("rb") as file:
            lines = lines_of(file)
            more = True
            while more and not check.is_over:
                began = time.perf_counter()
                more = await asyncio.to_thread(_check_piece, check, lines)
                await asyncio.sleep(time.perf_counter() - began)
        check.finish()
        if check.errors:
            await asyncio.to_thread(self._batches.refuse, batch.id, check.errors)
        else:
            await asyncio.to_thread(self._batches.accept, batch.id, check.starts, model=self._model)

    def _finish(self, batch: Batch) -> None:
        """Write output and error file, and end the batch."""
        names = {"output": new_file_id(), "error": new_file_id()}
        whole = True
        sizes = dict.fromkeys(names, 0)
        with ExitStack() as stack:
            to = {kind: stack.enter_context(self._folder.writing(file_id)) for kind, file_id in names.items()}
            source = stack.enter_context(self._folder.path_of(batch.input_file_id).open("rb"))
            for outcome in self._lines.outcomes(batch.id):
                text = outcome.text
                if text is None:
                    whole = False
                    text = _unexecuted(source, outcome, cancelled=batch.cancelling_at is not None)
                kind = "error" if outcome.failed else "output"
                to[kind].write(text)
                sizes[kind] += len(text)
        now = int(time.time())
        files = {
            kind: StoredFile(
                file_id,
                batch.subject,
                "batch_output",
                f"{batch.id}_{kind}.jsonl",
                sizes[kind],
                now,
                now + batch.output_keep_s,
            )
            for kind, file_id in names.items()
            if sizes[kind]
        }
        ended = False
        try:
            ended = self._batches.end(
                batch, output=files.get("output"), error=files.get("error"), whole=whole
            )
        finally:
            for kind, file_id in names.items():
                if not ended or kind not in files:
                    self._folder.remove(file_id)

    def _clean(self) -> None:
        for file_id in self._files.remove_expired():
            self._folder.remove(file_id)
        self._batches.forget(keep_s=self._keep_s)
        self._folder.remove_strays(self._files.known, older_than_s=_STRAY_S)
        self._show(self._batches.counts())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(renewal_pause_s(self._lease_s))
            with suppress(SQLAlchemyError):
                await asyncio.to_thread(self._batches.renew_tasks, self._worker, lease_s=self._lease_s)


def _check_piece(check: InputCheck, lines: Any) -> bool:
    """Check some of the lines. Return False if there are no more."""
    size = 0
    for start, line in lines:
        check.add(start, line)
        size += len(line)
        if size >= _PIECE_BYTES or check.is_over:
            return True
    return False


def _unexecuted(source: IO[bytes], outcome: LineOutcome, *, cancelled: bool) -> bytes:
    source.seek(outcome.offset)
    custom_id = read_request(source.read(outcome.length)).custom_id
    return unexecuted_line(custom_id, cancelled=cancelled)
