"""Orders about engines, taken over from the key database while it works."""

import asyncio
import logging
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from serval.engine.overrides import OverrideWatch
from serval.engine.weights import Override, Weight
from serval.store.database import open_database
from serval.store.engine_overrides import OverrideTable, StoredOverride


class Managed:
    """Keeps the orders that are put in force."""

    def __init__(self) -> None:
        self.overrides: list[Any] = []

    def override(self, overrides: Any) -> None:
        self.overrides.append(overrides)


@pytest.fixture
def table(tmp_path: Path) -> OverrideTable:
    return OverrideTable(open_database(str(tmp_path / "keys.db")))


async def test_orders_are_put_in_force_when_they_change(table: OverrideTable) -> None:
    fleet = Managed()
    table.set_weight("http://a", "5%")
    watch = OverrideWatch(table, cast(Any, fleet), poll_s=1)
    await watch.refresh()
    table.set_drained("http://a", drained=True)
    await watch.refresh()
    table.set_weight("http://a", None)
    await watch.refresh()
    assert fleet.overrides == [
        {"http://a": Override(Weight(0.05, is_share=True))},
        {"http://a": Override(Weight(0.05, is_share=True), drained=True)},
        {"http://a": Override(drained=True)},
    ]


def test_order_of_another_release_leaves_the_weight_of_the_list(
    table: OverrideTable, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Managed()
    table.set_weight("http://a", "heavy")
    with caplog.at_level(logging.WARNING):
        OverrideWatch(table, cast(Any, fleet), poll_s=1)
    assert fleet.overrides == [{"http://a": Override()}]
    assert "'heavy' cannot be used" in caplog.text


async def test_last_orders_stay_while_the_database_is_away(
    table: OverrideTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Managed()
    table.set_drained("http://a", drained=True)
    watch = OverrideWatch(table, cast(Any, fleet), poll_s=0)
    away = asyncio.Event()

    def load() -> Any:
        loop.call_soon_threadsafe(away.set)
        raise OperationalError("SELECT", {}, Exception("away"))

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(table, "load", load)
    watching = asyncio.create_task(watch.watch())
    async with asyncio.timeout(60):
        while "orders about engines cannot be read: OperationalError" not in caplog.text:
            away.clear()
            await away.wait()
    watching.cancel()
    assert fleet.overrides == [{"http://a": Override(drained=True)}]
    # A gateway that starts meanwhile has none.
    OverrideWatch(table, cast(Any, Managed()), poll_s=1)


def test_table_keeps_both_orders_about_an_engine(key_database: str) -> None:
    table = OverrideTable(open_database(key_database))
    table.set_drained("http://b", drained=True)
    table.set_weight("http://b", "0.5")
    table.set_weight("http://a", "5%")
    table.set_drained("http://b", drained=False)
    assert table.load() == [StoredOverride("http://a", "5%"), StoredOverride("http://b", "0.5")]
