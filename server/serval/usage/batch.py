"""A batch of usage: sums by key, model and hour in memory, and their lines in a journal."""

import logging
from pathlib import Path
from typing import Final

from serval.store.usage import Counts, Slot
from serval.usage.journal import Journal

logger = logging.getLogger(__name__)

# Most rows of a batch: about 30 MB.
MAX_ROWS: Final = 100_000


class Batch:
    """A batch. Without a `folder`, or once the journal fails, it is in memory alone."""

    def __init__(self, folder: Path | None, writer: str, sequence: int) -> None:
        self.sequence = sequence
        self.rows: dict[Slot, list[int]] = {}
        self._folder = folder
        self._writer = writer
        self._journal: Journal | None = None

    def add(self, slot: Slot, counts: Counts) -> bool:
        """Add counts, in constant time. Return False if they would need a row too many."""
        row = self.rows.get(slot)
        if row is None:
            if len(self.rows) >= MAX_ROWS:
                return False
            self.rows[slot] = list(counts)
        else:
            for index, count in enumerate(counts):
                row[index] += count
        if self._folder is not None:
            self._write(slot, counts)
        return True

    def _write(self, slot: Slot, counts: Counts) -> None:
        assert self._folder is not None
        try:
            if self._journal is None:
                # Made with the first line, so that an idle process makes no files.
                self._journal = Journal(self._folder, self._writer, self.sequence)
            if self._journal.append(slot, counts):
                self._journal.compact(self.rows)
        except OSError as error:
            logger.error("the usage journal cannot be written, usage is in memory alone: %s", error)
            self._folder = None
            self.forget()

    @property
    def is_kept(self) -> bool:
        """True if the journal has everything in the batch."""
        return self._journal is not None

    def forget(self) -> None:
        """Delete the journal: the batch is in the database."""
        if self._journal is not None:
            try:
                self._journal.remove()
            except OSError as error:
                # The batch is found again and, as its number is known, changes nothing.
                logger.warning("a file of the usage journal cannot be deleted: %s", error)
            self._journal = None

    def leave(self) -> None:
        """Leave the journal to other processes."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
