"""Tools of the log agent: one pass in bounded memory, lines by pattern and by number."""

from pathlib import Path

import pytest

from log_tools import (
    MOST_LINE_BYTES,
    MOST_LINES,
    FrequentCounts,
    grep,
    lines_of,
    read,
    summary_of,
    template_of,
    text_of,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "server.log"
    lines = [
        f"2026-11-29 10:{number // 60:02}:{number % 60:02} INFO GET /a/{number} 200" for number in range(600)
    ]
    lines[420] = "2026-11-29 10:07:00 ERROR worker 7 lost 0a1b2c3d4e"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_summary_counts_levels_minutes_and_templates(log: Path) -> None:
    summary = summary_of(log)
    assert (summary.lines, summary.size_bytes) == (600, log.stat().st_size)
    assert text_of(summary).splitlines() == [
        f"600 lines, {log.stat().st_size:,} bytes; levels: INFO 599, ERROR 1",
        "Minutes with most errors (errors of all lines):",
        "2026-11-29 10:07 1 of 60",
        "Most frequent lines, with numbers, addresses and paths masked:",
        "599 x <n> <n> INFO GET <path> <n>",
        "1 x <n> <n> ERROR worker <n> lost <hex>",
    ]


@pytest.mark.parametrize(
    ("line", "template"),
    [
        (b"took 12.5 ms at 10.0.0.1:80", b"took <n> ms at <n>"),
        (b"id 123e4567-e89b-12d3-a456-426614174000 ok", b"id <uuid> ok"),
        (b"cannot open /var/log/x.log: denied", b"cannot open <path>: denied"),
        (b"deadbeef is a word, 12ab34cd56 is not", b"deadbeef is a word, <hex> is not"),
        (b"x" * 1_000, b"x" * 200),
    ],
)
def test_template_masks_what_differs(line: bytes, template: bytes) -> None:
    assert template_of(line) == template


def test_counts_of_many_keys_stay_within_their_memory_and_bound() -> None:
    counts = FrequentCounts(10)
    for number in range(1_000):
        counts.add(b"often")
        counts.add(b"once %d" % number)
    assert len(counts.counts) <= 10
    assert 1_000 - 2_000 / 10 <= counts.counts[b"often"] <= 1_000


def test_endless_line_is_cut_and_the_next_one_found(tmp_path: Path) -> None:
    path = tmp_path / "long.log"
    path.write_bytes(b"x" * (3 * MOST_LINE_BYTES) + b"\nnext\n" + b"y" * MOST_LINE_BYTES)
    assert [len(line) for line in lines_of(path)] == [MOST_LINE_BYTES, 5, MOST_LINE_BYTES]


def test_grep_gives_numbers_of_lines_page_by_page(log: Path) -> None:
    assert grep(log, "ERROR|FATAL", 0) == "421: 2026-11-29 10:07:00 ERROR worker 7 lost 0a1b2c3d4e"
    pages = [grep(log, "INFO", skip).splitlines() for skip in (0, MOST_LINES, 590)]
    assert [len(page) for page in pages] == [MOST_LINES, MOST_LINES, 9]
    assert pages[1][0].startswith("101: ")
    assert grep(log, "-v", 0) == "nothing found"
    with pytest.raises(ValueError, match="grep"):
        grep(log, "(", 0)


def test_read_gives_numbered_lines(log: Path) -> None:
    assert read(log, 600, 5) == "600: 2026-11-29 10:09:59 INFO GET /a/599 200"
    assert read(log, 601, 5) == "no such line"
    assert len(read(log, -3, 10**9).splitlines()) == MOST_LINES
