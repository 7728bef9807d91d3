"""Progress of work counted in bytes, on standard error."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from serval_sglang.cli.text import decimal_size

_SILENT_S = 2.0
# A terminal shows one line that changes; a log gets few lines.
_TERMINAL_INTERVAL_S = 0.5
_LOG_INTERVAL_S = 15.0


class ByteProgress:
    """`with ByteProgress(...) as progress: progress.advance(...)`. Silent for the first two seconds."""

    def __init__(
        self, label: str, total_bytes: int, *, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = label
        self._total_bytes = total_bytes
        self._stream = stream
        self._clock = clock
        self._done_bytes = 0
        self._started_s = clock()
        self._next_s = self._started_s + _SILENT_S
        self._line_is_open = False

    def advance(self, size_bytes: int) -> None:
        """Add `size_bytes` to the work done."""
        self._done_bytes += size_bytes
        now_s = self._clock()
        if now_s < self._next_s:
            return
        rate = self._done_bytes / (now_s - self._started_s)
        left_s = (self._total_bytes - self._done_bytes) / rate
        text = (
            f"{self._label}: {decimal_size(self._done_bytes)} of {decimal_size(self._total_bytes)}, "
            f"{decimal_size(round(rate))}/s, {left_s:.0f} s left"
        )
        if self._stream.isatty():
            # Erase the rest of a longer previous line.
            self._stream.write(f"\r{text}\x1b[K")
            self._line_is_open = True
            self._next_s = now_s + _TERMINAL_INTERVAL_S
        else:
            self._stream.write(f"{text}\n")
            self._next_s = now_s + _LOG_INTERVAL_S
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line_is_open:
            self._stream.write("\n")
