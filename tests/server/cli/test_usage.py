"""`serval usage`."""

import csv
import io
import json
from pathlib import Path

import pytest

from serval.cli import main
from serval.settings import Settings
from serval.store.factory import open_store
from serval.store.usage import Slot, UsageTable

HOUR = 490_000  # 2025-11-24T16:00:00Z
COUNTS = (2, 10, 4, 5, 1, 1, 1_500_000_000)


@pytest.fixture
def key_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key with usage, in the database that is set."""
    location = str(tmp_path / "keys.db")
    monkeypatch.setenv("SERVAL_KEY_DATABASE", location)
    store = open_store(Settings(key_database=location))
    record, _ = store.create(name="alice", scopes=["inference"])
    rows = {Slot(record.id, "m", HOUR): COUNTS, Slot("operator-0", "m", HOUR + 24): COUNTS}
    UsageTable(store.engine).add("0" * 32, 1, rows, hour=HOUR)
    return record.id


RANGE = ("--since", "2025-11-01", "--until", "2026-01-01")


def test_usage_table_has_a_line_for_each_group(key_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", *RANGE]) == 0
    head, alice, operator = capsys.readouterr().out.splitlines()
    assert head.split() == (
        "TIME KEY NAME MODEL REQUESTS PROMPT CACHED COMPLETION CALLS ERRORS COST".split()  # noqa: SIM905
    )
    assert alice.split() == [
        "2025-11-24T00:00:00Z",
        key_id,
        "alice",
        "m",
        "2",
        "10",
        "4",
        "5",
        "1",
        "1",
        "1.50",
    ]
    assert operator.split()[:2] == ["2025-11-25T00:00:00Z", "operator-0"]


def test_usage_is_summed_without_groups(key_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", *RANGE, "--by", "", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["requests"], row["prompt_tokens"], row["key"]) == (4, 20, None)


def test_usage_of_one_key_is_csv(key_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", *RANGE, "--key", key_id, "--by", "key,hour", "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["start"], row["name"], row["requests"]) == ("2025-11-24T16:00:00Z", "alice", "2")


def test_usage_of_a_time_without_requests_says_so(key_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--since", "1h"]) == 0
    assert capsys.readouterr().out == "no request has ended in this time\n"


@pytest.mark.parametrize("wrong", [("--by", "colour"), ("--since", "yesterday"), ("--csv", "--json")])
def test_usage_wrong_use_is_refused(key_id: str, wrong: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["usage", *wrong])
    assert ended.value.code == 2


def test_usage_report_that_is_too_long_is_an_error(
    key_id: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.usage.report.MOST_ROWS", 1)
    assert main(["usage", *RANGE]) == 1
    assert "ask for less time or fewer groups" in capsys.readouterr().err
