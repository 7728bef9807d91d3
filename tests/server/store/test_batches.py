"""Batches: lists, owners, tasks and bounds, in SQLite and PostgreSQL."""

from typing import Any

import pytest
from sqlalchemy import Engine

from serval.store.batch_errors import FullError
from serval.store.batch_lines import LineStart
from serval.store.batches import Batch, BatchTable
from serval.store.files import new_file_id


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(batch_database: Engine, clock: Clock) -> BatchTable:
    return BatchTable(batch_database, now=clock)


def create(table: BatchTable, subject: str = "a", **changes: Any) -> Batch:
    values: dict[str, Any] = {
        "caller": "{}",
        "endpoint": "/v1/completions",
        "input_file_id": new_file_id(),
        "window_s": 100,
        "output_keep_s": 10,
        "metadata": {"a": "b"},
        "max_open": 100,
    }
    return table.create(subject, **{**values, **changes})


def test_batch_is_found_by_its_owner_and_by_administrators(table: BatchTable) -> None:
    batch = create(table)
    assert table.find(batch.id, subject="a") == table.find(batch.id) == batch
    assert table.find(batch.id, subject="b") is None
    assert table.cancel(batch.id, subject="b") is None
    assert table.find("batch_\0") is None
    assert table.cancel("batch_\0") is None
    assert table.list(after="\0") is None


def test_list_has_pages_from_the_newest_on(table: BatchTable, clock: Clock) -> None:
    created = []
    for _ in range(5):
        clock.now += 1
        # Two in the same second.
        created += [create(table), create(table), create(table, "b")]
    first = table.list(subject="a", limit=3)
    assert first is not None
    rest = table.list(subject="a", limit=100, after=first[-1].id)
    assert rest is not None
    assert len(rest) == 7
    listed = [batch.id for batch in (*first, *rest)]
    assert set(listed) == {batch.id for batch in created if batch.subject == "a"}
    assert [batch.created_at for batch in first] == [1005, 1005, 1004]
    assert table.list(subject="b", after=first[-1].id) is None
    everyone = table.list(limit=100)
    assert everyone is not None
    assert len(everyone) == 15
    assert table.counts() == {"validating": 15}
    assert table.counts(subject="b") == {"validating": 5}
    assert table.counts(subject="c") == {}


def test_open_batches_of_a_subject_are_bounded(table: BatchTable) -> None:
    batch = create(table, max_open=1)
    create(table, "b", max_open=1)
    with pytest.raises(FullError):
        create(table, max_open=1)
    table.refuse(batch.id, [{"line": 1, "code": "x"}])
    create(table, max_open=1)
    assert table.counts(subject="a") == {"validating": 1, "failed": 1}


def test_task_belongs_to_one_worker_until_its_lease_expires(table: BatchTable, clock: Clock) -> None:
    batch = create(table)
    assert table.take_task("one", lease_s=30) == batch
    assert table.take_task("two", lease_s=30) is None
    clock.now += 20
    table.renew_tasks("one", lease_s=30)
    clock.now += 20
    assert table.take_task("two", lease_s=30) is None
    clock.now += 10
    assert table.take_task("two", lease_s=30) == batch
    table.renew_tasks("two", lease_s=0)
    assert table.take_task("three", lease_s=30) == batch


def test_batch_is_accepted_once(table: BatchTable) -> None:
    batch = create(table)
    assert table.accept(batch.id, [LineStart(1, 0, 9)], model="m")
    assert not table.accept(batch.id, [LineStart(1, 0, 9)], model="m")
    assert not table.refuse(batch.id, [])
    running = table.find(batch.id)
    assert running is not None
    assert (running.status, running.total, running.model) == ("in_progress", 1, "m")


def test_batch_that_is_cancelled_while_it_is_validated_does_not_run(table: BatchTable) -> None:
    batch = create(table)
    table.cancel(batch.id)
    assert not table.accept(batch.id, [LineStart(1, 0, 9)], model="m")
    assert table.finalize_ended() == 1


def test_batch_that_has_ended_is_not_cancelled(table: BatchTable) -> None:
    batch = create(table)
    table.refuse(batch.id, [{"line": 3}])
    ended = table.cancel(batch.id)
    assert ended is not None
    assert (ended.status, ended.errors, ended.cancelling_at) == ("failed", [{"line": 3}], None)


def test_ended_batches_are_forgotten(table: BatchTable, clock: Clock) -> None:
    ended, running = create(table), create(table)
    table.refuse(ended.id, [])
    clock.now += 50
    assert table.forget(keep_s=51) == 0
    assert table.forget(keep_s=50) == 1
    assert table.find(ended.id) is None
    assert table.find(running.id) is not None
