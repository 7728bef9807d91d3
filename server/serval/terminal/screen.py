"""Screen of `serval serve`: a line for each stage of the start, the address and key, then requests."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.status import Status
from rich.text import Text

from serval.errors import SettingsError, StackError
from serval.terminal.log_file import LogFile, engine_log_path
from serval.terminal.log_lines import readable
from serval.terminal.stages import FIRST_STAGE, StageReader

_LAST_LINES: Final = 20


@contextmanager
def opened_screen(port: int, engines: Sequence[str] = ("engine",)) -> "Iterator[Screen]":
    """Show a run on this terminal; `port` of the gateway names the logs of the `engines`.

    Raises `SettingsError`.
    """
    logs: dict[str, LogFile] = {}
    for number, engine in enumerate(engines):
        path = engine_log_path(port, number if len(engines) > 1 else None)
        try:
            logs[engine] = LogFile(path)
        except OSError as error:
            raise SettingsError(
                f"the engine's log {str(path)!r} cannot be written: {error.strerror}; set XDG_STATE_HOME to"
                " a folder that can, or print the log with --verbose"
            ) from error
    screen = Screen(Console(highlight=False), logs)
    screen.start()
    try:
        yield screen
    except BaseException as error:
        screen.close(failed=True, process=error.process if isinstance(error, StackError) else None)
        raise
    screen.close(failed=False)


@dataclass
class _Start:
    """How far the start of one engine is. `title` begins its lines; empty for the only engine."""

    title: str
    log: LogFile
    stage_began_s: float
    stage: str = FIRST_STAGE
    stages: StageReader = field(default_factory=StageReader)
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))


class Screen:
    """Shows one run. Lines of each engine go to its log; the last ones are shown if the start fails."""

    def __init__(
        self, console: Console, logs: Mapping[str, LogFile], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`logs` are those of the engines, by the names of their processes."""
        self._console = console
        self._clock = clock
        self._began_s = clock()
        self._engines = {
            name: _Start("" if len(logs) == 1 else f"{name}: ", log, self._began_s)
            for name, log in logs.items()
        }
        self._status = Status(self._stages(), console=console)
        self._is_ready = False

    def start(self) -> None:
        """Show where the logs are, and the first stage."""
        for name, engine in self._engines.items():
            whose = "The engine's log" if len(self._engines) == 1 else f"The log of {name}"
            self._console.print(Text(f"{whose}: {engine.log.path}", style="dim"), soft_wrap=True)
        self._status.start()

    def on_line(self, process: str, line: str) -> None:
        """Receive one line that an engine or the gateway wrote."""
        engine = self._engines.get(process)
        if engine is not None:
            engine.log.write(line)
            engine.last_lines.append(line)
            stage = None if self._is_ready else engine.stages.stage_begun_by(line)
            if stage is not None:
                self._end_stage(engine)
                engine.stage = stage
                self._status.update(self._stages())
        elif self._is_ready and (text := readable(line)) is not None:
            self._console.print(text, soft_wrap=True)

    def ready(self, *, title: str, rows: Sequence[tuple[str, str]], example: str) -> None:
        """Show that the server is ready: `rows` of name and value, and an `example` to paste."""
        for engine in self._engines.values():
            self._end_stage(engine)
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

    def close(self, *, failed: bool, process: str | None = None) -> None:
        """End the display; after a failure, show the last lines of the engine `process`, or of all."""
        self._status.stop()
        if failed:
            chosen = {process} if process in self._engines else set(self._engines)
            for name, engine in self._engines.items():
                if name in chosen:
                    self._show_last_lines(name, engine)
        else:
            self._console.print("stopped")
        for engine in self._engines.values():
            engine.log.close()

    def _show_last_lines(self, name: str, engine: _Start) -> None:
        for line in engine.last_lines:
            self._console.print(Text(f"{name} | {line}", style="dim"), soft_wrap=True)
        whose = "the engine" if len(self._engines) == 1 else name
        self._console.print(f"The whole log of {whose} is in {engine.log.path}", soft_wrap=True)

    def _stages(self) -> str:
        return ", ".join(f"{engine.title}{engine.stage}" for engine in self._engines.values())

    def _end_stage(self, engine: _Start) -> None:
        now = self._clock()
        self._console.print(
            f"[green]✓[/] {engine.title}{engine.stage} [dim]{now - engine.stage_began_s:.1f} s[/]"
        )
        engine.stage_began_s = now
