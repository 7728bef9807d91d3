"""The page of usage."""

import time
from pathlib import Path

import pytest

from serval.settings import Settings
from serval.store.factory import open_store
from serval.store.teams import TeamStore
from serval.store.usage import Slot, UsageTable
from serval_testkit.console import Visitor, running_console

NAME = "<b>alice</b>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A key database with usage of two callers and models, now and ten days ago."""
    store = open_store(Settings(key_database=str(tmp_path / "keys.db")))
    team = TeamStore(store.engine).create(name="team")
    record, _ = store.create(name=NAME, scopes=["inference"], team=team.id)
    hour = int(time.time() // 3600)
    rows = {
        Slot(record.id, "one", hour): (2, 100, 50, 11, 1, 0, 1_500_000_000),
        Slot("operator-0", "two", hour): (1, 7, 0, 5, 0, 1, 0),
        Slot(record.id, "two", hour - 240): (1, 1000, 0, 2, 0, 0, 1),
    }
    UsageTable(store.engine).add("writer", 1, rows, hour=hour)
    return tmp_path


def cells(page: str, row: str) -> list[str]:
    line = next(line for line in page.splitlines() if f'<th scope="row">{row}' in line)
    return [cell.split("<")[0] for cell in line.split('<td class="count">')[1:]]


async def opened(visitor: Visitor, query: str) -> str:
    answer = await visitor.get(f"/console/usage{query}")
    assert answer.status == 200
    return answer.text


async def test_usage_is_summed_by_key_and_model(folder: Path) -> None:
    async with running_console(folder) as (_, visitor):
        await visitor.sign_in()
        page = await opened(visitor, "")
        assert cells(page, "&lt;b&gt;alice") == ["2", "100", "50", "11", "1", "0", "1.50"]
        assert cells(page, "operator-0") == ["1", "7", "0", "5", "0", "1", "0.00"]
        assert cells(page, "all") == ["3", "107", "50", "16", "1", "1", "1.50"]
        assert page.count("<rect class=") - page.count('aria-hidden="true"') == 2
        assert "<b>" not in page
        month = await opened(visitor, "?by=model&days=30")
        assert cells(month, "two") == ["2", "1\u202f007", "0", "7", "0", "1", "0.000000001"]
        day = await opened(visitor, "?by=model&days=1")
        assert cells(day, "two") == ["1", "7", "0", "5", "0", "1", "0.00"]
        teams = await opened(visitor, "?by=team")
        assert cells(teams, "team (")[:2] == ["2", "100"]
        assert cells(teams, "no team")[:2] == ["1", "7"]
        csv = await visitor.get("/console/usage.csv?by=model&days=30")
        assert csv.headers["content-type"].startswith("text/csv")
        assert len(csv.text.splitlines()) == 4


async def test_report_that_does_not_exist_is_refused(visitor: Visitor) -> None:
    for query in ("by=name", "days=8", "by=<script>", "days=9999999999"):
        for path in ("/console/usage", "/console/usage.csv"):
            answer = await visitor.get(f"{path}?{query}")
            assert answer.status == 400
            assert "<script>" not in answer.text


async def test_page_without_usage_says_so(visitor: Visitor) -> None:
    assert "There was none." in await opened(visitor, "")
