"""The recorder: requests counted once, databases that are away, processes that end."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from serval.store.database import open_database
from serval.store.usage import HOUR_S, Slot, UsageTable
from serval.telemetry.record import RequestRecord
from serval.usage import batch
from serval.usage.recorder import UsageRecorder

HOUR = 480_000


def now() -> float:
    return HOUR * HOUR_S + 1800.0


def record(subject: str | None = "a", **fields: object) -> RequestRecord:
    values: dict[str, object] = {
        "request_id": "req_1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "subject": subject,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        **fields,
    }
    return RequestRecord(**values)  # type: ignore[arg-type]


class Dropped:
    """Numbers of requests and tokens that were left out."""

    requests = tokens = 0

    def __call__(self, requests: int, tokens: int) -> None:
        self.requests += requests
        self.tokens += tokens


def recorder_of(
    table: UsageTable, journal: Path | None = None, dropped: Dropped | None = None
) -> UsageRecorder:
    return UsageRecorder(
        table, model="m", keep_days=400, journal=journal, dropped=dropped or Dropped(), now=now
    )


def sums(table: UsageTable) -> tuple[int, int, int]:
    """Requests, prompt tokens and completion tokens."""
    (row,) = table.sums((), first=0, end=10**7, most=2)
    return int(row.requests), int(row.prompt_tokens), int(row.completion_tokens)


@pytest.fixture
def location(tmp_path: Path) -> str:
    return str(tmp_path / "keys.db")


@pytest.fixture
def table(location: str, monkeypatch: pytest.MonkeyPatch) -> UsageTable:
    monkeypatch.setattr("serval.store.database._BUSY_TIMEOUT_S", 0.01)
    return UsageTable(open_database(location))


@contextmanager
def locked(location: str) -> Iterator[None]:
    """A database that cannot be written."""
    with closing(sqlite3.connect(location)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        yield


class Unsure(UsageTable):
    """A table whose connection breaks when the first batch is committed."""

    broken = False

    def add(self, writer: str, sequence: int, rows: object, *, hour: int) -> bool:
        added = super().add(writer, sequence, rows, hour=hour)  # type: ignore[arg-type]
        if not self.broken:
            self.broken = True
            raise OperationalError("COMMIT", {}, ConnectionError())
        return added


async def test_recorder_counts_a_request_once(table: UsageTable) -> None:
    recorder = recorder_of(table)
    one = record(tool_calls_complete=2, tool_calls_invalid=1, cached_tokens=3, error_code="x", cost=8)
    recorder.count(one)
    recorder.count(one)
    recorder.count(record(subject=None))
    await recorder.write()
    await recorder.write()
    (row,) = table.sums(("key", "model", "hour"), first=0, end=10**7, most=2)
    assert tuple(row) == (HOUR, "a", "m", None, 1, 10, 3, 5, 3, 1, 8)


async def test_recorder_counts_to_the_hour_in_which_a_request_came_in(table: UsageTable) -> None:
    recorder = recorder_of(table)
    old = record()
    old.clock.started -= 3000
    recorder.count(old)
    await recorder.write()
    assert [row.hour for row in table.sums(("hour",), first=0, end=10**7, most=2)] == [HOUR - 1]


async def test_recorder_batch_of_unknown_outcome_is_added_once(location: str) -> None:
    table = Unsure(open_database(location))
    recorder = recorder_of(table)
    recorder.count(record())
    with pytest.raises(OperationalError):
        await recorder.write()
    recorder.count(record())
    await recorder.write()
    await recorder.write()
    assert sums(table) == (2, 20, 10)


async def test_recorder_locked_database_delays_writing_and_loses_nothing(
    table: UsageTable, location: str
) -> None:
    recorder = recorder_of(table)
    with locked(location):
        for _ in range(3):
            recorder.count(record())
            with pytest.raises(SQLAlchemyError):
                await recorder.write()
    await recorder.write()
    await recorder.write()
    assert sums(table) == (3, 30, 15)


async def test_recorder_drops_what_is_beyond_its_bound_and_says_so(
    table: UsageTable, location: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batch, "MAX_ROWS", 3)
    dropped = Dropped()
    recorder = recorder_of(table, dropped=dropped)
    async with recorder.lifespan():
        for subject in "abcde":
            recorder.count(record(subject))
        recorder.count(record("a"))
    assert (dropped.requests, dropped.tokens) == (2, 30)
    assert "usage was dropped" in caplog.text
    assert sums(table) == (4, 40, 20)


async def test_recorder_that_ends_writes_what_it_has(table: UsageTable, tmp_path: Path) -> None:
    folder = tmp_path / "usage"
    folder.mkdir()
    recorder = recorder_of(table, folder)
    async with recorder.lifespan():
        recorder.count(record())
    assert sums(table) == (1, 10, 5)
    assert {each.name for each in folder.iterdir()} <= {"adoption.lock"}


async def test_recorder_that_ends_without_the_database_says_what_it_lost(
    table: UsageTable, location: str, caplog: pytest.LogCaptureFixture
) -> None:
    dropped = Dropped()
    recorder = recorder_of(table, dropped=dropped)
    with locked(location):
        async with recorder.lifespan():
            recorder.count(record())
    assert (dropped.requests, dropped.tokens) == (1, 15)
    assert "usage was dropped" in caplog.text


async def test_recorder_that_ends_without_the_database_leaves_its_batches_to_the_next(
    table: UsageTable, location: str, tmp_path: Path
) -> None:
    folder = tmp_path / "usage"
    folder.mkdir()
    dropped = Dropped()
    recorder = recorder_of(table, folder, dropped)
    with locked(location):
        async with recorder.lifespan():
            recorder.count(record())
            with pytest.raises(SQLAlchemyError):
                await recorder.write()
            recorder.count(record())
    await recorder_of(table, folder).adopt()
    assert sums(table) == (2, 20, 10)
    assert dropped.requests == 0


async def test_recorder_adopts_a_batch_that_is_in_the_database_without_adding_it_again(
    location: str, tmp_path: Path
) -> None:
    table = Unsure(open_database(location))
    recorder = recorder_of(table, tmp_path)
    recorder.count(record())
    with pytest.raises(OperationalError):
        await recorder.write()
    recorder.count(record())
    for left in (recorder._writing, recorder._batch):
        assert left is not None
        left.leave()
    await recorder_of(table, tmp_path).adopt()
    assert sums(table) == (2, 20, 10)
    await recorder_of(table, tmp_path).adopt()
    assert sums(table) == (2, 20, 10)


async def test_recorder_without_its_journal_goes_on_in_memory(
    table: UsageTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorder_of(table, tmp_path / "missing")
    recorder.count(record())
    recorder.count(record())
    await recorder.write()
    assert sums(table) == (2, 20, 10)
    assert caplog.text.count("cannot be written") == 1


async def test_recorder_forgets_old_usage(table: UsageTable) -> None:
    table.add("w" * 32, 1, {Slot("a", "m", HOUR - 400 * 24 - 1): (1,) * 7}, hour=HOUR)
    table.add("w" * 32, 2, {Slot("a", "m", HOUR - 400 * 24): (1,) * 7}, hour=HOUR)
    await recorder_of(table).forget_old()
    assert sums(table)[0] == 1
