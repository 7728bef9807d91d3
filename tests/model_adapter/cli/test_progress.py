"""Progress appears after two seconds, at intervals, and on one line of a terminal."""

import io

import pytest

from serval_sglang.cli.progress import ByteProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(stream: io.StringIO, *, seconds: int) -> str:
    """Advance by 1 GB per second."""
    now_s = 0.0
    total = seconds * 10**9
    with ByteProgress("hashing", total, stream=stream, clock=lambda: now_s) as progress:
        for _ in range(seconds):
            now_s += 1.0
            progress.advance(10**9)
    return stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_progress_is_silent_for_short_work(stream: io.StringIO) -> None:
    assert work(stream, seconds=1) == ""


def test_progress_writes_few_lines_to_log() -> None:
    lines = work(io.StringIO(), seconds=60).splitlines()
    assert lines[0] == "hashing: 2.00 GB of 60.00 GB, 1.00 GB/s, 58 s left"
    assert len(lines) == 4


def test_progress_rewrites_one_line_on_terminal() -> None:
    shown = work(Terminal(), seconds=10)
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert "\r" in shown
