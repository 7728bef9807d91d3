"""Screen of `serval serve`: a line for each stage of the start, the address and key, then requests."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.status import Status
from rich.text import Text

from serval.errors import SettingsError
from serval.terminal.log_file import LogFile, engine_log_path
from serval.terminal.log_lines import readable
from serval.terminal.stages import FIRST_STAGE, StageReader

_LAST_LINES: Final = 20


@contextmanager
def opened_screen(port: int) -> "Iterator[Screen]":
    """Show a run on this terminal; `port` of the gateway names the engine's log. Raises `SettingsError`."""
    path = engine_log_path(port)
    try:
        log = LogFile(path)
    except OSError as error:
        raise SettingsError(
            f"the engine's log {str(path)!r} cannot be written: {error.strerror}; set XDG_STATE_HOME to a "
            "folder that can, or print the log with --verbose"
        ) from error
    screen = Screen(Console(highlight=False), log)
    screen.start()
    try:
        yield screen
    except BaseException:
        screen.close(failed=True)
        raise
    screen.close(failed=False)


class Screen:
    """Shows one run. Lines of the engine go to `log`, whose last ones are shown if the start fails."""

    def __init__(
        self, console: Console, log: LogFile, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._log = log
        self._clock = clock
        self._stages = StageReader()
        self._stage = FIRST_STAGE
        self._stage_began_s = self._began_s = clock()
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._status = Status(self._stage, console=console)
        self._is_ready = False

    def start(self) -> None:
        """Show where the log is, and the first stage."""
        self._console.print(Text(f"The engine's log: {self._log.path}", style="dim"), soft_wrap=True)
        self._status.start()

    def on_line(self, process: str, line: str) -> None:
        """Receive one line that the engine or the gateway wrote."""
        if process == "engine":
            self._log.write(line)
            self._last_lines.append(line)
            stage = None if self._is_ready else self._stages.stage_begun_by(line)
            if stage is not None:
                self._end_stage()
                self._stage = stage
                self._status.update(stage)
        elif self._is_ready and (text := readable(line)) is not None:
            self._console.print(text, soft_wrap=True)

    def ready(self, *, title: str, rows: Sequence[tuple[str, str]], example: str) -> None:
        """Show that the server is ready: `rows` of name and value, and an `example` to paste."""
        self._end_stage()
        self._status.stop()
        self._is_ready = True
        self._console.print(f"[green]✓[/] ready {self._clock() - self._began_s:.1f} s")
        width = max(len(name) for name, _ in rows)
        self._console.rule(f"[bold]{title}[/]", align="left")
        for name, value in rows:
            self._console.print(Text(f"{name:<{width}}  {value}"), soft_wrap=True)
        # Neither a frame at the sides nor spaces at the ends of lines: the lines can be copied.
        self._console.print(Text(f"\n{example}\n", style="bold"), soft_wrap=True)
        self._console.rule()

    def stopping(self) -> None:
        """Show that running answers may end."""
        self._status.start()
        self._status.update("stopping; running answers may end")

    def close(self, *, failed: bool) -> None:
        """End the display; after a failure, show the engine's last lines."""
        self._status.stop()
        if failed:
            for line in self._last_lines:
                self._console.print(Text(f"engine | {line}", style="dim"), soft_wrap=True)
            self._console.print(f"The whole log of the engine is in {self._log.path}", soft_wrap=True)
        else:
            self._console.print("stopped")
        self._log.close()

    def _end_stage(self) -> None:
        now = self._clock()
        self._console.print(f"[green]✓[/] {self._stage} [dim]{now - self._stage_began_s:.1f} s[/]")
        self._stage_began_s = now
