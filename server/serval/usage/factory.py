"""Factory of the recorder that the settings describe, and the last look at a journal that ends."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serval.errors import SettingsError
from serval.settings import Settings
from serval.store.factory import open_store

if TYPE_CHECKING:
    from serval.store.key_store import KeyStore
    from serval.store.usage import UsageTable
    from serval.usage.recorder import UsageRecorder

logger = logging.getLogger(__name__)


def usage_table(settings: Settings, store: "KeyStore | None") -> "UsageTable | None":
    """The table of usage in the key database; None if no usage is kept."""
    if store is None or settings.usage_keep_days == 0:
        return None
    # SQLAlchemy is loaded only where there is a database.
    from serval.store.usage import UsageTable

    return UsageTable(store.engine)


def open_usage(
    settings: Settings, table: "UsageTable | None", *, model: str, dropped: Callable[[int, int], None]
) -> "UsageRecorder | None":
    """The recorder of one process, None without a table. For `dropped` see `UsageRecorder`.

    Raises `SettingsError` if the folder of the journal cannot be used.
    """
    if table is None:
        return None
    from serval.usage.recorder import UsageRecorder

    journal = settings.usage_journal
    if journal is not None:
        try:
            journal.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"SERVAL_USAGE_JOURNAL: the folder {str(journal)!r} cannot be used: {error.strerror}"
            ) from None
    return UsageRecorder(
        table,
        model=model,
        keep_days=settings.usage_keep_days,
        journal=journal,
        dropped=dropped,
    )


def write_left_usage(settings: Settings, folder: Path) -> None:
    """Write the batches that are left in `folder`, which is about to be deleted. Failures are logged."""
    if settings.key_database is None or not folder.is_dir():
        return
    from sqlalchemy.exc import SQLAlchemyError

    from serval.store.usage import HOUR_S, UsageTable
    from serval.usage.journal import LeftBatch, left_batches
    from serval.usage.recorder import adopt

    batches: Sequence[LeftBatch] = ()
    try:
        with left_batches(folder) as batches:
            pass
        if batches:
            adopt(folder, UsageTable(open_store(settings).engine), int(time.time() // HOUR_S))
    except (SQLAlchemyError, SettingsError, OSError):
        rows = [counts for batch in batches for counts in batch.rows.values()]
        fields = {
            "requests": sum(counts[0] for counts in rows),
            "tokens": sum(counts[1] + counts[3] for counts in rows),
        }
        logger.exception("usage was dropped", extra={"fields": fields})
