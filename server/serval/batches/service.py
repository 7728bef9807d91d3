"""Everything about batches of one process: tables, contents, and what runs beside the requests."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from serval.batches.folder import ContentFolder, open_folder
from serval.batches.lines import AnswerLine, LineRunner
from serval.batches.tasks import Checks, TaskRunner
from serval.batches.uploads import Uploads
from serval.errors import SettingsError
from serval.settings import Settings
from serval.store.batch_lines import LineTable
from serval.store.batches import BatchTable
from serval.store.files import FileTable


@dataclass(frozen=True)
class Batches:
    """Tables and contents of files and batches."""

    files: FileTable
    batches: BatchTable
    lines: LineTable
    folder: ContentFolder
    uploads: Uploads = field(default_factory=Uploads)


def open_batches(folder: Path, engine: Engine | None) -> Batches:
    """Open the tables in the key database and the folder. Raises `SettingsError`."""
    if engine is None:
        raise SettingsError("SERVAL_BATCH_FOLDER needs a key database; set SERVAL_KEY_DATABASE too")
    return Batches(FileTable(engine), BatchTable(engine), LineTable(engine), open_folder(folder))


@asynccontextmanager
async def running_batches(
    batches: Batches,
    settings: Settings,
    *,
    answer: AnswerLine,
    checks: Checks,
    model: str,
    allowed: Callable[[int], int],
    count: Callable[[str], None],
    show: Callable[[Mapping[str, int]], None],
) -> AsyncIterator[None]:
    """Run batches while entered. For the parameters see `LineRunner` and `TaskRunner`."""
    worker = secrets.token_hex(16)
    runners = (
        LineRunner(
            batches.lines,
            batches.folder,
            answer,
            worker=worker,
            allowed=allowed,
            most=settings.batch_concurrency,
            count=count,
            lease_s=settings.batch_lease_s,
            poll_s=settings.batch_poll_s,
        ),
        TaskRunner(
            batches.batches,
            batches.lines,
            batches.files,
            batches.folder,
            checks,
            worker=worker,
            model=model,
            max_lines=settings.batch_max_lines,
            keep_s=settings.batch_keep_s,
            show=show,
            lease_s=settings.batch_lease_s,
            poll_s=settings.batch_poll_s,
        ),
    )
    stop = asyncio.Event()
    tasks = [asyncio.create_task(runner.run(stop)) for runner in runners]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)
