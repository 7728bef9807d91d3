"""File of an engine's output, kept while a terminal shows only the stages of its start."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from serval.settings import state_folder

_MAX_BYTES: Final = 16 << 20
_KEPT_FILES: Final = 1


def engine_log_path(port: int, number: int | None = None) -> Path:
    """Return the log of the engine behind the gateway at `port`, in the user's folder for state.

    Several engines have a `number` each.
    """
    return state_folder() / f"engine-{port}{'' if number is None else f'-{number}'}.log"


class LogFile:
    """Lines in a file that is replaced at a start and when it reaches 16 MiB; one older file is kept."""

    def __init__(self, path: Path) -> None:
        """Open `path`, readable by its owner alone: an engine may log parts of requests.

        Raises `OSError`.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._handler = RotatingFileHandler(
            path, maxBytes=_MAX_BYTES, backupCount=_KEPT_FILES, delay=True, encoding="utf-8"
        )
        if path.exists():
            self._handler.doRollover()
        path.touch(mode=0o600)

    def write(self, line: str) -> None:
        """Append `line`. A full disk is reported on standard error and stops nothing."""
        self._handler.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
