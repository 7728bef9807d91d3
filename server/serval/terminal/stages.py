"""Stages of an engine's start, recognised by lines that SGLang and its HTTP server write."""

from collections.abc import Sequence
from typing import Final

FIRST_STAGE: Final = "importing the engine"

# Text in the line that begins a stage, and the stage, in the order of the start. The sources: UPSTREAM.md.
STAGES: Final[Sequence[tuple[str, str]]] = (
    ("server_args=", "starting the engine's processes"),
    ("Load weight begin", "loading weights"),
    ("Load weight end", "reserving memory"),
    ("CUDA graph begin", "capturing CUDA graphs"),
    ("Uvicorn running on", "warming up"),
)


class StageReader:
    """Stages of one start, each at most once and in order: with several ranks, lines of a stage repeat."""

    def __init__(self) -> None:
        self._ahead = STAGES

    def stage_begun_by(self, line: str) -> str | None:
        """Return the stage that `line` begins, or None."""
        for place, (text, stage) in enumerate(self._ahead, start=1):
            if text in line:
                self._ahead = self._ahead[place:]
                return stage
        return None
