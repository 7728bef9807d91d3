"""Files of the usage journal: what is left of a process, and what is not touched."""

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serval.store.usage import Slot
from serval.usage import journal
from serval.usage.journal import Journal, left_batches

WRITER = "0" * 32
SLOT = Slot("alice", "m", 100)
COUNTS = (1, 10, 4, 5, 0, 0, 3)


def left(folder: Path) -> dict[tuple[str, int], dict[Slot, list[int]]]:
    with left_batches(folder) as batches:
        return {
            (each.writer, each.sequence): {slot: list(counts) for slot, counts in each.rows.items()}
            for each in batches
        }


def test_journal_of_a_running_process_is_not_left(tmp_path: Path) -> None:
    kept = Journal(tmp_path, WRITER, 1)
    kept.append(SLOT, COUNTS)
    assert left(tmp_path) == {}
    kept.close()
    assert left(tmp_path) == {(WRITER, 1): {SLOT: [1, 10, 4, 5, 0, 0, 3]}}


def test_journal_of_a_killed_process_is_left(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from serval.usage.journal import Journal\n"
        f"kept = Journal(Path(sys.argv[1]), {WRITER!r}, 7)\n"
        f"kept.append({tuple(SLOT)!r}, {COUNTS!r}); kept.append({tuple(SLOT)!r}, {COUNTS!r})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert left(tmp_path) == {(WRITER, 7): {SLOT: [2, 20, 8, 10, 0, 0, 6]}}


def test_journal_line_of_a_release_without_costs_has_no_cost(tmp_path: Path) -> None:
    kept = Journal(tmp_path, WRITER, 1)
    kept.append(SLOT, COUNTS[:-1])
    kept.append(SLOT, COUNTS)
    kept.close()
    assert left(tmp_path) == {(WRITER, 1): {SLOT: [2, 20, 8, 10, 0, 0, 3]}}


def test_journal_line_that_was_not_finished_is_left_out(tmp_path: Path) -> None:
    kept = Journal(tmp_path, WRITER, 1)
    kept.append(SLOT, COUNTS)
    kept.close()
    with (tmp_path / f"{WRITER}.1").open("ab") as file:
        file.write(b'["alice","m",1')
    assert left(tmp_path) == {(WRITER, 1): {SLOT: list(COUNTS)}}


def test_journal_line_that_cannot_be_read_is_logged_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Journal(tmp_path, WRITER, 1)
    kept.append(SLOT, COUNTS)
    kept.close()
    with (tmp_path / f"{WRITER}.1").open("ab") as file:
        file.write(b"\x00\n")
    assert left(tmp_path) == {(WRITER, 1): {SLOT: list(COUNTS)}}
    assert "cannot be read" in caplog.text


def test_journal_is_left_to_one_process_at_a_time(tmp_path: Path) -> None:
    kept = Journal(tmp_path, WRITER, 1)
    kept.append(SLOT, COUNTS)
    kept.close()
    with left_batches(tmp_path) as batches:
        assert len(batches) == 1
        assert left(tmp_path) == {}


def test_journal_batches_of_a_writer_are_left_in_their_order(tmp_path: Path) -> None:
    for sequence in (10, 9, 2):
        Journal(tmp_path, WRITER, sequence).close()
    assert list(left(tmp_path)) == [(WRITER, 2), (WRITER, 9), (WRITER, 10)]


def test_journal_compacted_has_the_same_sums_in_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "COMPACT_BYTES", 400)
    kept = Journal(tmp_path, WRITER, 1)
    rows = {SLOT: [0] * len(COUNTS)}
    largest = 0
    for _ in range(1000):
        rows[SLOT] = [one + other for one, other in zip(rows[SLOT], COUNTS, strict=True)]
        if kept.append(SLOT, COUNTS):
            kept.compact(rows)
        largest = max(largest, (tmp_path / f"{WRITER}.1").stat().st_size)
    # The process still holds the file that took the place of the first.
    assert left(tmp_path) == {}
    kept.close()
    assert left(tmp_path) == {(WRITER, 1): rows}
    assert largest < 600


def test_journal_removed_leaves_nothing(tmp_path: Path) -> None:
    kept = Journal(tmp_path, WRITER, 1)
    kept.append(SLOT, COUNTS)
    kept.remove()
    assert [each.name for each in tmp_path.iterdir()] == []


def test_journal_written_anew_while_it_is_looked_at_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former file is unlocked, but its process lives and goes on in the new one."""
    kept = Journal(tmp_path, WRITER, 1)
    kept.append(SLOT, COUNTS)
    lock = fcntl.flock

    def lock_late(file: Any, operation: int) -> None:
        if getattr(file, "name", "") == str(tmp_path / f"{WRITER}.1"):
            kept.compact({SLOT: COUNTS})
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    assert left(tmp_path) == {}
