"""Usage in the database: batches that are added once, sums, and retention."""

from threading import Barrier, Thread

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from serval.store.database import open_database
from serval.store.key_store import KeyStore
from serval.store.teams import TeamStore
from serval.store.usage import Slot, UsageTable

WRITER = "w" * 32
DAY = 20_000 * 24
ALL = {"first": 0, "end": 10**7, "most": 100}
ONE = (1, 10, 4, 5, 1, 0, 7)


def table_of(location: str) -> UsageTable:
    return UsageTable(open_database(location))


def requests(table: UsageTable) -> int:
    (row,) = table.sums((), **ALL)
    return int(row.requests)


def test_usage_batch_is_added_once(key_database: str) -> None:
    table = table_of(key_database)
    rows = {Slot("a", "m", DAY): ONE}
    assert table.add(WRITER, 1, rows, hour=DAY)
    assert not table.add(WRITER, 1, rows, hour=DAY)
    assert requests(table) == 1
    assert table.add(WRITER, 3, rows, hour=DAY)
    assert not table.add(WRITER, 2, rows, hour=DAY)
    assert table.add("v" * 32, 1, rows, hour=DAY)
    assert requests(table) == 3


def test_usage_batch_that_fails_in_part_is_added_whole_later(key_database: str) -> None:
    engine = open_database(key_database)
    table = UsageTable(engine)
    rows = {Slot("a", "m", DAY): ONE, Slot("b", "m", DAY): (1, None, 4, 5, 1, 0, 0)}
    with pytest.raises(SQLAlchemyError, match=r"(?i)null"):
        table.add(WRITER, 1, rows, hour=DAY)  # type: ignore[arg-type]
    assert requests(table) == 0
    assert table.add(WRITER, 1, {Slot("a", "m", DAY): ONE}, hour=DAY)
    assert requests(table) == 1


def test_usage_of_many_writers_at_once_adds_up(key_database: str) -> None:
    table = table_of(key_database)
    start = Barrier(4)
    slots = [Slot(subject, "m", DAY) for subject in "abcdef"]

    def write(writer: str, order: int) -> None:
        start.wait()
        for sequence in range(1, 11):
            table.add(writer, sequence, dict.fromkeys(slots[::order], ONE), hour=DAY)

    threads = [Thread(target=write, args=(str(index) * 32, (-1) ** index)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert requests(table) == 4 * 10 * 6


def test_usage_sums_are_grouped_and_named(key_database: str) -> None:
    engine = open_database(key_database)
    record, _ = KeyStore(engine).create(name="alice", scopes=["inference"])
    table = UsageTable(engine)
    rows = {
        Slot(record.id, "m", DAY + 1): ONE,
        Slot(record.id, "m", DAY + 23): ONE,
        Slot(record.id, "n", DAY + 24): ONE,
        Slot("operator-0", "m", DAY + 1): (2, 1, 0, 1, 0, 2, 0),
    }
    table.add(WRITER, 1, rows, hour=DAY)
    by_key = {row.key: (row.name, row.requests, row.errors) for row in table.sums(("key",), **ALL)}
    assert by_key == {record.id: ("alice", 3, 0), "operator-0": (None, 2, 2)}
    by_day = [(row.day, row.model, row.prompt_tokens) for row in table.sums(("day", "model"), **ALL)]
    assert by_day == [(DAY, "m", 21), (DAY + 24, "n", 10)]
    by_hour = [(row.hour, row.requests) for row in table.sums(("hour",), **ALL)]
    assert by_hour == [(DAY + 1, 3), (DAY + 23, 1), (DAY + 24, 1)]
    (mine,) = table.sums((), **ALL, subject=record.id)
    assert (mine.requests, mine.cached_tokens, mine.completion_tokens, mine.tool_calls) == (3, 12, 15, 3)
    (some,) = table.sums((), first=DAY + 1, end=DAY + 24, most=100)
    assert some.requests == 4
    assert len(table.sums(("hour",), first=0, end=10**7, most=2)) == 2


def test_usage_belongs_to_the_team_that_the_key_has(key_database: str) -> None:
    engine = open_database(key_database)
    table, keys, teams = UsageTable(engine), KeyStore(engine), TeamStore(engine)
    first, second = teams.create(name="first"), teams.create(name="second")
    record, _ = keys.create(name="alice", scopes=["inference"], team=first.id)
    table.add(WRITER, 1, {Slot(record.id, "m", DAY): ONE, Slot("operator-0", "m", DAY): ONE}, hour=DAY)
    keys.update(record.id, team=second.id)
    # The rest of the hour counts where it began.
    table.add(WRITER, 2, {Slot(record.id, "m", DAY): ONE}, hour=DAY)
    table.add(WRITER, 3, {Slot(record.id, "m", DAY + 1): ONE}, hour=DAY + 1)
    by_team = {row.team: (row.team_name, row.requests, row.cost) for row in table.sums(("team",), **ALL)}
    assert by_team == {
        first.id: ("first", 2, 14), second.id: ("second", 1, 7), None: (None, 1, 7),
    }  # fmt: skip


def test_usage_is_forgotten_before_an_hour(key_database: str) -> None:
    engine = open_database(key_database)
    table = UsageTable(engine)
    table.add(WRITER, 1, {Slot("a", "m", DAY): ONE}, hour=DAY)
    table.add("v" * 32, 1, {Slot("a", "m", DAY + 1): ONE}, hour=DAY + 1)
    table.forget(DAY + 1)
    assert requests(table) == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT writer FROM usage_writers")).scalars().all() == ["v" * 32]
