"""Rows of files: owners, lists, use, expiry and size, in SQLite and PostgreSQL."""

import pytest
from sqlalchemy import Engine

from serval.store.batch_errors import FileInUseError, FullError
from serval.store.batches import BatchTable
from serval.store.files import FileTable, StoredFile, new_file_id


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(batch_database: Engine, clock: Clock) -> FileTable:
    return FileTable(batch_database, now=clock)


@pytest.fixture
def batches(batch_database: Engine, table: FileTable, clock: Clock) -> BatchTable:
    return BatchTable(batch_database, now=clock)


def add(table: FileTable, subject: str = "a", *, size: int = 10, max_bytes: int = 100) -> StoredFile:
    return table.add(new_file_id(), subject, filename="in.jsonl", size=size, keep_s=50, max_bytes=max_bytes)


def use(batches: BatchTable, file: StoredFile) -> str:
    batch = batches.create(
        "a",
        caller="{}",
        endpoint="/v1/completions",
        input_file_id=file.id,
        window_s=100,
        output_keep_s=10,
        metadata=None,
        max_open=9,
    )
    return batch.id


def test_file_belongs_to_its_owner(table: FileTable) -> None:
    file = add(table)
    assert table.find("a", file.id) == file
    assert table.find("b", file.id) is None
    assert not table.remove("b", file.id)
    assert table.remove("a", file.id)
    assert table.find("a", file.id) is None
    assert not table.remove("a", file.id)


@pytest.mark.parametrize("file_id", ["", "file-", "file-\0", "file-" + "g" * 32])
def test_text_that_is_no_id_finds_no_file(table: FileTable, file_id: str) -> None:
    assert table.find("a", file_id) is None
    assert not table.remove("a", file_id)
    assert table.list("a", limit=1, after=file_id, purpose=None, newest_first=True) is None


def test_files_are_listed_in_both_orders(table: FileTable, clock: Clock) -> None:
    added = []
    for _ in range(3):
        clock.now += 1
        added.append(add(table))
    add(table, "b")
    newest = table.list("a", limit=9, after=None, purpose="batch", newest_first=True)
    assert newest == added[::-1]
    assert table.list("a", limit=1, after=added[0].id, purpose=None, newest_first=False) == [added[1]]
    assert table.list("a", limit=9, after=None, purpose="batch_output", newest_first=True) == []


def test_bytes_of_a_subject_are_bounded(table: FileTable) -> None:
    file = add(table, size=60)
    add(table, "b", size=60)
    assert [table.stored_bytes(subject) for subject in "abc"] == [60, 60, 0]
    with pytest.raises(FullError):
        add(table, size=41)
    table.remove("a", file.id)
    add(table, size=41)


def test_input_of_a_batch_that_runs_is_neither_deleted_nor_expired(
    table: FileTable, batches: BatchTable, clock: Clock
) -> None:
    needed, other = add(table), add(table)
    batch_id = use(batches, needed)
    with pytest.raises(FileInUseError):
        table.remove("a", needed.id)
    clock.now += 50
    assert table.remove_expired() == [other.id]
    assert table.known([needed.id, other.id]) == {needed.id}
    # Nobody but its batch sees an expired file.
    assert table.find("a", needed.id) is None
    batches.refuse(batch_id, [])
    assert table.remove_expired() == [needed.id]
