"""The page of batches."""

import time
from itertools import count
from pathlib import Path

import pytest

from serval.settings import Settings
from serval.store.batches import Batch, BatchTable
from serval.store.factory import open_store
from serval_testkit.console import Visitor, running_console

NAME = "<u>alice</u>"


def made_batch(table: BatchTable, subject: str) -> Batch:
    return table.create(
        subject,
        caller="{}",
        endpoint="/v1/chat/completions",
        input_file_id="file-0",
        window_s=86_400,
        output_keep_s=86_400,
        metadata=None,
        max_open=1000,
    )


async def test_batches_of_all_keys_are_listed_and_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing checks or ends the batches meanwhile.
    monkeypatch.setattr(BatchTable, "take_task", lambda self, worker, lease_s: None)
    monkeypatch.setattr(BatchTable, "finalize_ended", lambda self: 0)
    seconds = count(int(time.time()))
    store = open_store(Settings(key_database=str(tmp_path / "keys.db")))
    record, _ = store.create(name=NAME, scopes=["inference"])
    # Each is newer than the one before: batches of one second have no order.
    table = BatchTable(store.engine, now=lambda: next(seconds))
    mine, other = made_batch(table, record.id), made_batch(table, "operator-0")
    (tmp_path / "batches").mkdir()
    async with running_console(tmp_path, batch_folder=tmp_path / "batches") as (_, visitor):
        await visitor.sign_in()
        page = (await visitor.get("/console/batches")).text
        for text in (mine.id, other.id, "&lt;u&gt;alice&lt;/u&gt;", "operator-0", "validating", "0 of 0"):
            assert text in page
        assert "<u>" not in page
        answer = await visitor.send(f"/console/batches/{mine.id}/cancel")
        assert (answer.status, answer.headers["location"]) == (303, "/console/batches")
        page = (await visitor.get("/console/batches")).text
        assert f"/console/batches/{mine.id}/cancel" not in page
        assert f"/console/batches/{other.id}/cancel" in page
        cancelled = table.find(mine.id)
        assert cancelled is not None
        assert cancelled.status == "cancelling"
        assert (await visitor.send("/console/batches/batch_none/cancel")).status == 404
        for _ in range(51):
            made_batch(table, record.id)
        page = (await visitor.get("/console/batches")).text
        assert mine.id not in page
        after = page.split("?after=")[1].split('"')[0]
        assert mine.id in (await visitor.get(f"/console/batches?after={after}")).text
        assert (await visitor.get("/console/batches?after=x")).status == 400


async def test_server_without_batches_says_so(visitor: Visitor) -> None:
    assert "This server runs no batches" in (await visitor.get("/console/batches")).text
    assert (await visitor.send(f"/console/batches/batch_{'0' * 32}/cancel")).status == 404
