"""Stored responses: chains, owners, expiry and size, in SQLite and PostgreSQL."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text

from serval.store.compression import compressed
from serval.store.database import open_database
from serval.store.responses import ROW_BYTES, Link, ResponseTable


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(key_database: str, clock: Clock) -> ResponseTable:
    return ResponseTable(open_database(key_database), now=clock)


def name(number: int) -> str:
    return f"resp_{number:032x}"


def add(
    table: ResponseTable,
    number: int,
    *,
    before: Sequence[int] = (),
    subject: str = "a",
    keep_s: int = 100,
    size: int = 11,
    max_bytes: int = 1000,
) -> bool:
    """Add a response. `size` and `max_bytes` are in hundreds of bytes."""
    more: Any = {"input_items": b"", "body": b"x" * (100 * size - ROW_BYTES), "whole_bytes": 7}
    return table.add(
        subject,
        name(number),
        before=[name(each) for each in before],
        keep_s=keep_s,
        max_bytes=100 * max_bytes,
        **more,
    )


def links(*numbers: int) -> list[Link]:
    return [Link(name(number), 7) for number in numbers]


def test_chain_has_the_oldest_response_first(table: ResponseTable) -> None:
    assert add(table, 1)
    assert add(table, 2, before=[1])
    assert add(table, 3, before=[1, 2])
    assert add(table, 4, before=[1])
    assert table.chain("a", name(3)) == links(1, 2, 3)
    assert table.chain("a", name(4)) == links(1, 4)


def test_chain_is_none_without_a_part_of_it(table: ResponseTable) -> None:
    add(table, 1)
    add(table, 2, before=[1])
    assert table.remove("a", name(1))
    assert table.chain("a", name(2)) is None
    assert table.chain("a", name(9)) is None


@pytest.mark.parametrize("response_id", ["", "resp_", "resp_\0", "resp_" + "g" * 32, "x" * 10_000, "ä"])
def test_text_that_is_no_id_finds_nothing(table: ResponseTable, response_id: str) -> None:
    assert table.chain("a", response_id) is None
    assert table.load("a", [response_id]) == []
    assert not table.remove("a", response_id)


def test_response_of_another_subject_is_not_found(table: ResponseTable) -> None:
    add(table, 1)
    add(table, 2, before=[1], subject="b")
    assert table.chain("b", name(1)) is None
    assert table.chain("b", name(2)) is None, "a part of the chain is another's"
    assert table.load("b", [name(1)]) == []
    assert not table.remove("b", name(1))
    assert table.chain("a", name(1)) == links(1)


def test_load_returns_what_was_added(table: ResponseTable, clock: Clock) -> None:
    table.add(
        "a",
        name(1),
        before=[],
        input_items=compressed(b"[1]"),
        body=compressed(b"{}"),
        whole_bytes=5,
        keep_s=10,
        max_bytes=10_000,
    )
    (found,) = table.load("a", [name(1), name(2)])
    assert (found.id, found.parent, found.created_at) == (name(1), None, 1000)
    assert (found.input, found.body) == (b"[1]", b"{}")


def test_chain_expires_when_it_has_not_gone_on(table: ResponseTable, clock: Clock) -> None:
    add(table, 1)
    clock.now += 60
    add(table, 2, before=[1])
    clock.now += 60
    assert table.chain("a", name(2)) == links(1, 2), "the second response keeps the first"
    clock.now += 40
    assert table.chain("a", name(2)) is None
    assert table.load("a", [name(2)]) == []
    assert not table.remove("a", name(2))


def test_expired_responses_are_deleted(table: ResponseTable, key_database: str, clock: Clock) -> None:
    add(table, 1)
    clock.now += 101
    add(table, 2)
    with open_database(key_database).connect() as connection:
        assert connection.execute(text("SELECT id FROM responses")).scalars().all() == [name(2)]


def test_oldest_responses_of_the_subject_make_room(table: ResponseTable, clock: Clock) -> None:
    add(table, 7, subject="b", size=900)
    for number in (1, 2, 3):
        add(table, number, size=300)
        clock.now += 1
    assert add(table, 4, size=300)
    assert [bool(table.chain("a", name(number))) for number in (1, 2, 3, 4)] == [False, True, True, True]
    assert table.chain("b", name(7))


def test_conversation_that_goes_on_outlives_a_newer_one(table: ResponseTable, clock: Clock) -> None:
    add(table, 1, size=300)
    clock.now += 1
    add(table, 2, size=300)
    clock.now += 1
    add(table, 3, before=[1], size=300)
    add(table, 4, before=[1, 3], size=300)
    assert table.chain("a", name(4)) == links(1, 3, 4)
    assert table.load("a", [name(2)]) == []


def test_response_larger_than_all_may_be_is_not_stored(table: ResponseTable) -> None:
    add(table, 1)
    assert not add(table, 2, size=1001)
    assert table.chain("a", name(2)) is None
    assert table.chain("a", name(1)) == links(1)


def test_circular_chain_ends(table: ResponseTable, key_database: str) -> None:
    add(table, 1)
    with open_database(key_database).begin() as connection:
        connection.execute(text(f"UPDATE responses SET parent = '{name(1)}'"))  # noqa: S608
    assert table.chain("a", name(1)) is None


def test_room_is_made_for_more_than_one_response(table: ResponseTable) -> None:
    for number in range(10):
        add(table, number, size=100)
    add(table, 10, size=100)
    kept = [number for number in range(11) if table.chain("a", name(number))]
    assert len(kept) == 9
    assert 10 in kept
