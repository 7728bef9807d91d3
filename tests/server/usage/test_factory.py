"""The last look at a journal that is about to be deleted."""

from pathlib import Path

import pytest

from serval.errors import SettingsError
from serval.settings import Settings
from serval.store.database import open_database
from serval.store.usage import Slot, UsageTable
from serval.usage.factory import open_usage, write_left_usage
from serval.usage.journal import Journal

COUNTS = (1, 10, 4, 5, 0, 0)


def leave_a_batch(folder: Path) -> None:
    kept = Journal(folder, "0" * 32, 1)
    kept.append(Slot("a", "m", 100), COUNTS)
    kept.close()


def test_left_usage_is_written_when_a_gateway_ends(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.db")
    leave_a_batch(tmp_path)
    for _ in range(2):
        write_left_usage(Settings(key_database=database), tmp_path)
    (row,) = UsageTable(open_database(database)).sums((), first=0, end=10**7, most=2)
    assert (row.requests, row.prompt_tokens) == (1, 10)


def test_left_usage_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave_a_batch(tmp_path)
    write_left_usage(Settings(key_database=str(tmp_path / "missing" / "keys.db")), tmp_path)
    (line,) = [each for each in caplog.records if each.getMessage() == "usage was dropped"]
    assert line.__dict__["fields"] == {"requests": 1, "tokens": 15}


def test_left_usage_without_a_database_or_folder_is_nothing(tmp_path: Path) -> None:
    write_left_usage(Settings(), tmp_path)
    write_left_usage(Settings(key_database=str(tmp_path / "keys.db")), tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_journal_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(key_database=str(tmp_path / "keys.db"), usage_journal=tmp_path / "file" / "usage")
    table = UsageTable(open_database(str(tmp_path / "keys.db")))
    with pytest.raises(SettingsError, match="SERVAL_USAGE_JOURNAL"):
        open_usage(settings, table, model="m", dropped=lambda *_: None)
