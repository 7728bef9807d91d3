"""Daily use in the key database: restarts, and a database that cannot be reached."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from serval.caller.budgets import Used
from serval.limits.daily_use import DAY_S, DailyUse
from serval.limits.persistence import DailyUsePersister
from serval.store.daily_tokens import DailyTokens
from serval.store.database import open_database

DAY = 20_000


class Clock:
    now = float(DAY * DAY_S + 60)

    def __call__(self) -> float:
        return self.now


async def persister_of(location: str, clock: Clock) -> tuple[DailyUse, DailyUsePersister]:
    daily = DailyUse()
    persister = DailyUsePersister(daily, DailyTokens(open_database(location)), now=clock)
    await persister.load()
    return daily, persister


async def test_persister_use_is_loaded_by_another_process(key_database: str) -> None:
    daily, persister = await persister_of(key_database, Clock())
    daily.record("a", DAY, Used(100))
    daily.record("a", DAY, Used(-30))
    daily.record("b", DAY - 1, Used(5))
    await persister.save()
    other, _ = await persister_of(key_database, Clock())
    assert (other.used("a", DAY), other.used("b", DAY - 1), other.used("b", DAY)) == (70, 5, 0)


async def test_persister_processes_on_one_database_add_up(key_database: str) -> None:
    one, persister_of_one = await persister_of(key_database, Clock())
    two, persister_of_two = await persister_of(key_database, Clock())
    for _ in range(3):
        one.record("a", DAY, Used(10))
        two.record("a", DAY, Used(1))
        await persister_of_one.save()
        await persister_of_two.save()
    assert (one.used("a", DAY), two.used("a", DAY)) == (32, 33)


async def test_persister_locked_database_delays_saving_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.store.database._BUSY_TIMEOUT_S", 0.01)
    location = str(tmp_path / "keys.db")
    daily, persister = await persister_of(location, Clock())
    lock = sqlite3.connect(location)
    lock.execute("BEGIN EXCLUSIVE")
    daily.record("a", DAY, Used(10))
    with pytest.raises(OperationalError):
        await persister.save()
    # Use is still counted meanwhile.
    daily.record("a", DAY, Used(1))
    assert daily.used("a", DAY) == 11
    lock.close()
    await persister.save()
    assert (await persister_of(location, Clock()))[0].used("a", DAY) == 11


async def test_persister_use_of_a_day_survives_a_set_clock(tmp_path: Path) -> None:
    clock = Clock()
    daily, persister = await persister_of(str(tmp_path / "keys.db"), clock)
    daily.record("a", DAY, Used(10))
    await persister.save()
    for step_s in (3600, -3600, 10 * 365 * DAY_S):
        clock.now += step_s
        await persister.save()
        clock.now -= step_s
        await persister.save()
        assert daily.used("a", DAY) == 10


async def test_persister_lifespan_saves_at_the_end(tmp_path: Path) -> None:
    location = str(tmp_path / "keys.db")
    daily, persister = await persister_of(location, Clock())
    async with persister.lifespan():
        daily.record("a", DAY, Used(10))
    assert (await persister_of(location, Clock()))[0].used("a", DAY) == 10
