"""Leases and results of lines of batches, in SQLite and PostgreSQL."""

import pytest
from sqlalchemy import Engine

from serval.store.batch_lines import Line, LineResult, LineStart, LineTable
from serval.store.batches import Batch, BatchTable
from serval.store.files import FileTable, StoredFile, new_file_id

LEASE_S = 30
WINDOW_S = 1000


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Tables:
    """All tables on one database and one clock."""

    def __init__(self, engine: Engine) -> None:
        self.clock = Clock()
        self.lines = LineTable(engine, now=self.clock)
        self.batches = BatchTable(engine, now=self.clock)
        self.files = FileTable(engine, now=self.clock)

    def batch(self, lines: int, *, subject: str = "a") -> str:
        """A batch in progress; return its id."""
        batch = self.batches.create(
            subject,
            caller="{}",
            endpoint="/v1/completions",
            input_file_id=new_file_id(),
            window_s=WINDOW_S,
            output_keep_s=10,
            metadata=None,
            max_open=9,
        )
        starts = [LineStart(number, 100 * number, 90) for number in range(1, lines + 1)]
        assert self.batches.accept(batch.id, starts, model="m")
        return batch.id

    def find(self, batch_id: str) -> Batch:
        batch = self.batches.find(batch_id)
        assert batch is not None
        return batch

    def lease(self, worker: str, most: int = 100, **options: object) -> list[Line]:
        return list(self.lines.lease(worker, most, lease_s=LEASE_S, **options))  # type: ignore[arg-type]


@pytest.fixture
def tables(batch_database: Engine) -> Tables:
    return Tables(batch_database)


def numbers(lines: list[Line]) -> list[int]:
    return [line.number for line in lines]


def result(batch_id: str, number: int, *, failed: bool = False, text: bytes = b"x") -> LineResult:
    return LineResult(batch_id, number, failed, text, 5, 1, 7, 2)


def test_line_is_leased_to_one_worker(tables: Tables) -> None:
    tables.batch(5)
    assert numbers(tables.lease("one", 3)) == [1, 2, 3]
    assert numbers(tables.lease("two")) == [4, 5]
    assert tables.lease("two") == []


def test_lines_of_a_dead_worker_are_leased_again_and_renewed_ones_are_not(tables: Tables) -> None:
    batch_id = tables.batch(3)
    tables.lease("dead", 2)
    (mine,) = tables.lease("one")
    tables.clock.now += LEASE_S - 1
    tables.lines.renew("one", [mine.key], lease_s=LEASE_S)
    assert tables.lease("two") == []
    tables.clock.now += 1
    assert numbers(tables.lease("two")) == [1, 2]
    # A renewal by the dead one, which was only slow, takes nothing back.
    tables.lines.renew("dead", [(batch_id, 1)], lease_s=9 * LEASE_S)
    tables.clock.now += LEASE_S
    assert numbers(tables.lease("three")) == [1, 2, 3]


def test_line_that_is_given_back_is_leased_again_with_its_attempts(tables: Tables) -> None:
    tables.batch(2)
    first, second = tables.lease("one")
    tables.lines.give_back("one", [first.key], engine_failed=True)
    tables.lines.give_back("two", [second.key])
    (again,) = tables.lease("one")
    assert (again.number, again.attempts) == (1, 1)
    tables.lines.give_back("one", [again.key])
    assert [line.attempts for line in tables.lease("one")] == [1]


def test_result_is_recorded_once_by_whoever_comes_first(tables: Tables) -> None:
    batch_id = tables.batch(2)
    tables.lease("slow")
    tables.clock.now += LEASE_S
    tables.lease("fast")
    assert tables.lines.record([result(batch_id, 1, text=b"fast"), result(batch_id, 1, text=b"again")]) == 1
    both = [result(batch_id, 2, failed=True), result(batch_id, 1, text=b"slow")]
    assert tables.lines.record(both) == 1
    batch = tables.find(batch_id)
    assert (batch.completed, batch.failed, batch.input_tokens, batch.reasoning_tokens) == (1, 1, 10, 4)
    assert tables.lease("fast") == []
    tables.clock.now += LEASE_S
    assert tables.lease("fast") == []
    assert tables.batches.finalize_ended() == 1
    assert [(each.failed, each.text) for each in tables.lines.outcomes(batch_id)] == [
        (False, b"fast"),
        (True, b"x"),
    ]


def test_subjects_have_equal_shares_and_the_busy_one_comes_last(tables: Tables) -> None:
    tables.batch(50)
    tables.batch(50)
    late = tables.batch(50, subject="b")
    assert {line.subject for line in tables.lease("one", 4, at_most={"b": 0})} == {"a"}
    assert len(tables.lease("two", 4, at_most={"a": 0, "b": 1})) == 1
    leased = tables.lease("one", 5)
    assert sum(line.batch_id == late for line in leased) == 3
    assert {line.subject for line in tables.lease("one", 100, at_most={"a": 0})} == {"b"}
    assert {line.subject for line in tables.lease("one", 100, at_most={"a": 0, "b": 0})} == set()


def test_no_line_of_a_batch_that_is_cancelled_or_expired_is_leased(tables: Tables) -> None:
    cancelled, expired = tables.batch(2), tables.batch(2)
    tables.batches.cancel(cancelled)
    assert {line.batch_id for line in tables.lease("one", 1)} == {expired}
    tables.clock.now += WINDOW_S
    assert tables.lease("one") == []


def test_cancelled_batch_waits_for_lines_that_run(tables: Tables) -> None:
    batch_id = tables.batch(3)
    (line,) = tables.lease("one", 1)
    cancelled = tables.batches.cancel(batch_id, subject="a")
    assert cancelled is not None
    assert cancelled.status == "cancelling"
    assert tables.batches.finalize_ended() == 0
    assert tables.lines.record([result(batch_id, line.number)]) == 1
    assert tables.batches.finalize_ended() == 1
    batch = tables.find(batch_id)
    assert (batch.status, batch.completed, batch.failed) == ("finalizing", 1, 2)
    assert tables.batches.end(batch, output=None, error=None, whole=False)
    assert tables.find(batch_id).status == "cancelled"


def test_result_that_comes_after_the_end_is_dropped(tables: Tables) -> None:
    batch_id = tables.batch(1)
    tables.lease("dead")
    tables.clock.now += WINDOW_S
    assert tables.batches.finalize_ended() == 1
    assert tables.lines.record([result(batch_id, 1)]) == 0
    batch = tables.find(batch_id)
    assert (batch.completed, batch.failed) == (0, 1)
    (line,) = tables.lines.outcomes(batch_id)
    assert (line.offset, line.text) == (100, None)


def test_outcomes_come_in_order_and_whole(tables: Tables) -> None:
    batch_id = tables.batch(450)
    tables.lease("one", 450)
    assert tables.lines.record([result(batch_id, number) for number in range(450, 0, -1)]) == 450
    assert [line.number for line in tables.lines.outcomes(batch_id)] == list(range(1, 451))


def test_batch_ends_once_with_its_files(tables: Tables) -> None:
    batch_id = tables.batch(1)
    tables.lease("one")
    tables.lines.record([result(batch_id, 1)])
    tables.batches.finalize_ended()
    batch = tables.batches.take_task("one", lease_s=LEASE_S)
    assert batch is not None
    output = StoredFile(new_file_id(), "a", "batch_output", "o.jsonl", 1, 1000, 1010)
    assert tables.batches.end(batch, output=output, error=None, whole=True)
    assert not tables.batches.end(batch, output=output, error=None, whole=True)
    ended = tables.find(batch_id)
    assert (ended.status, ended.completed_at, ended.output_file_id) == ("completed", 1000, output.id)
    assert tables.files.find("a", output.id) == output
    assert list(tables.lines.outcomes(batch_id)) == []
