"""Screen of `serval serve`, drawn into a string instead of a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from serval.terminal.log_file import LogFile, engine_log_path
from serval.terminal.screen import Screen, opened_screen

SGLANG_LINES = (
    "[2026-11-29 16:39:42] server_args={'model_path': '/models/lite'}",
    "[2026-11-29 16:39:43] Load weight begin. avail mem=20.02 GB",
    "[2026-11-29 16:39:44] Load weight end. elapsed=0.18 s",
    "[2026-11-29 16:39:44] INFO:     Uvicorn running on http://127.0.0.1:14211 (Press CTRL+C to quit)",
)


@pytest.fixture
def drawn() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def screen(tmp_path: Path, drawn: io.StringIO) -> Screen:
    seconds = iter(range(1000))
    console = Console(file=drawn, width=60, highlight=False)
    screen = Screen(console, {"engine": LogFile(tmp_path / "engine.log")}, clock=lambda: float(next(seconds)))
    screen.start()
    return screen


def make_ready(screen: Screen) -> None:
    for line in SGLANG_LINES:
        screen.on_line("engine", line)
    example = "curl http://127.0.0.1:8000/v1/chat/completions \\\n  -d " + "x" * 80
    screen.ready(title="demo is ready", rows=[("URL", "http://h/v1"), ("key", "sk-1")], example=example)


def test_screen_shows_each_stage_with_its_time(screen: Screen, drawn: io.StringIO) -> None:
    make_ready(screen)
    lines = drawn.getvalue().splitlines()
    stages = [line for line in lines if line.startswith("✓")]
    assert stages == [
        "✓ importing the engine 1.0 s",
        "✓ starting the engine's processes 1.0 s",
        "✓ loading weights 1.0 s",
        "✓ reserving memory 1.0 s",
        "✓ warming up 1.0 s",
        "✓ ready 6.0 s",
    ]


def test_screen_example_can_be_copied(screen: Screen, drawn: io.StringIO) -> None:
    """It is longer than the terminal: no line break and no trailing space is put into it."""
    make_ready(screen)
    assert "completions \\\n  -d " + "x" * 80 + "\n" in drawn.getvalue()


def test_screen_shows_no_line_of_the_engine_and_keeps_all_in_the_log(
    screen: Screen, drawn: io.StringIO, tmp_path: Path
) -> None:
    make_ready(screen)
    screen.on_line("engine", "Prefill batch, #new-seq: 1")
    assert "Prefill" not in drawn.getvalue()
    log = tmp_path / "engine.log"
    assert log.read_text().splitlines() == [*SGLANG_LINES, "Prefill batch, #new-seq: 1"]
    assert log.stat().st_mode & 0o077 == 0


def test_screen_after_a_failure_shows_the_engines_last_lines_and_its_log(
    screen: Screen, drawn: io.StringIO, tmp_path: Path
) -> None:
    for number in range(100):
        screen.on_line("engine", f"line {number} [brackets]")
    screen.close(failed=True)
    text = drawn.getvalue()
    assert "engine | line 99 [brackets]" in text
    assert "line 79 " not in text
    assert f"The whole log of the engine is in {tmp_path / 'engine.log'}" in text


def test_screen_shows_lines_of_the_gateway_once_ready(screen: Screen, drawn: io.StringIO) -> None:
    screen.on_line("gateway", "serval gateway: waiting for the engine")
    make_ready(screen)
    screen.on_line("gateway", "Traceback of [something]")
    assert "waiting" not in drawn.getvalue()
    assert "Traceback of [something]" in drawn.getvalue()


def test_log_file_keeps_the_log_of_the_last_start(tmp_path: Path) -> None:
    for line in ("first", "second"):
        log = LogFile(tmp_path / "engine.log")
        log.write(line)
        log.close()
    assert (tmp_path / "engine.log").read_text() == "second\n"
    assert (tmp_path / "engine.log.1").read_text() == "first\n"


def test_engine_log_path_follows_the_users_folder_for_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert engine_log_path(8000) == tmp_path / "serval" / "engine-8000.log"
    assert engine_log_path(8000, 1) == tmp_path / "serval" / "engine-8000-1.log"


def test_opened_screen_names_a_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from serval.errors import SettingsError

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="XDG_STATE_HOME"), opened_screen(8000):
        pass


@pytest.fixture
def two_engines(tmp_path: Path, drawn: io.StringIO) -> Screen:
    logs = {f"engine {number}": LogFile(tmp_path / f"engine-{number}.log") for number in range(2)}
    screen = Screen(Console(file=drawn, width=200, highlight=False), logs, clock=lambda: 1.0)
    screen.start()
    return screen


def test_screen_shows_the_stages_and_logs_of_each_engine(
    two_engines: Screen, drawn: io.StringIO, tmp_path: Path
) -> None:
    for line in SGLANG_LINES[:2]:
        two_engines.on_line("engine 1", line)
    two_engines.on_line("engine 0", SGLANG_LINES[0])
    two_engines.ready(title="ready", rows=[("URL", "u")], example="curl")
    stages = [line for line in drawn.getvalue().splitlines() if line.startswith("✓")]
    assert stages == [
        "✓ engine 1: importing the engine 0.0 s",
        "✓ engine 1: starting the engine's processes 0.0 s",
        "✓ engine 0: importing the engine 0.0 s",
        "✓ engine 0: starting the engine's processes 0.0 s",
        "✓ engine 1: loading weights 0.0 s",
        "✓ ready 0.0 s",
    ]
    assert (tmp_path / "engine-0.log").read_text().splitlines() == [SGLANG_LINES[0]]


@pytest.mark.parametrize(("process", "shown"), [("engine 1", {1}), ("gateway", {0, 1}), (None, {0, 1})])
def test_screen_shows_the_last_lines_of_the_engine_that_failed(
    two_engines: Screen, drawn: io.StringIO, process: str | None, shown: set[int]
) -> None:
    for number in range(2):
        two_engines.on_line(f"engine {number}", f"line of {number}")
    two_engines.close(failed=True, process=process)
    for number in range(2):
        assert (f"engine {number} | line of {number}" in drawn.getvalue()) is (number in shown)
        assert (f"The whole log of engine {number} is in" in drawn.getvalue()) is (number in shown)
