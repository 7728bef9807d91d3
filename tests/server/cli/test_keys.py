"""`serval keys`."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from serval.cli import main
from serval.settings import Settings
from serval.store.factory import open_store


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAL_KEY_DATABASE", str(tmp_path / "keys.db"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    assert main(["keys", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_keys_create_list_rotate_and_revoke(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = run(capsys, "create", "--name", "alice", "--model", "m", "--expires-in", "90d")
    assert made["key"].startswith(f"sk-serval-{made['id']}-")
    assert made["expires_at"] - made["created_at"] == 90 * 86400
    assert (made["scopes"], made["models"]) == (["inference"], ["m"])
    (listed,) = run(capsys, "list")
    assert listed == {name: value for name, value in made.items() if name != "key"}
    (rotated,) = run(capsys, "rotate", made["id"], "--grace", "1h")
    assert rotated["id"] != made["id"]
    (revoked,) = run(capsys, "revoke", rotated["id"])
    assert revoked["revoked_at"] is not None
    assert len(run(capsys, "list")) == 2


def test_keys_limits_are_set_shown_changed_and_kept_by_rotate(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = run(capsys, "create", "--name", "a", "--requests-per-minute", "60", "--tokens-per-day", "500")
    expected = {
        "requests_per_minute": 60,
        "tokens_per_minute": "default",
        "concurrent_requests": "default",
        "tokens_per_day": 500,
    }
    assert made["limits"] == expected
    changes = (
        "--requests-per-minute",
        "unlimited",
        "--tokens-per-day",
        "default",
        "--concurrent-requests",
        "3",
    )
    (changed,) = run(capsys, "update", made["id"], *changes)
    expected |= {"requests_per_minute": "unlimited", "tokens_per_day": "default", "concurrent_requests": 3}
    assert changed["limits"] == expected
    (rotated,) = run(capsys, "rotate", made["id"])
    assert rotated["limits"] == expected
    assert main(["keys", "list"]) == 0
    assert "requests_per_minute=unlimited concurrent_requests=3" in capsys.readouterr().out


def test_keys_create_shows_the_key_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--name", "alice"]) == 0
    key = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("sk-serval-"))
    assert main(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert "alice" in shown
    assert "live" in shown
    assert key not in shown
    assert main(["keys", "revoke", key.split("-")[2]]) == 0
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    assert "revoked" in capsys.readouterr().out


def listed(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The table of `keys list`, cut where the columns of its header begin."""
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    cuts = list(zip(starts, [*starts[1:], None], strict=True))
    return [[line[start:end].strip() for start, end in cuts] for line in (head, *lines)]


def test_keys_list_is_a_table_with_a_header_and_the_name_first(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = run(capsys, "create", "--name", "bob the builder", "--requests-per-minute", "5", "--model", "m")
    run(capsys, "create", "--name", "al", "--expires-in", "90d", "--scope", "bulk", "--scope", "inference")
    head, first, second = sorted(listed(capsys), key=lambda row: row[0] != "NAME")
    assert head == ["NAME", "ID", "STATE", "CREATED", "EXPIRES", "SCOPES", "MODELS", "TEAM", "LIMITS"]
    bob, other = (first, second) if first[0] == "bob the builder" else (second, first)
    assert bob[1:3] + bob[4:] == [made["id"], "live", "never", "inference", "m", "-", "requests_per_minute=5"]
    assert other[4].endswith("Z")
    assert other[5:] == ["bulk,inference", "all", "-", "default"]


def test_keys_list_shows_until_when_a_rotated_key_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = run(capsys, "create", "--name", "a")
    run(capsys, "rotate", made["id"], "--grace", "1h")
    states = {row[1]: row[2] for row in listed(capsys)}
    assert re.fullmatch(r"until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", states.pop(made["id"]))
    assert sorted(states.values()) == ["STATE", "live"]


def test_keys_list_without_keys_names_the_way_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list"]) == 0
    assert "serval keys create" in capsys.readouterr().out


def test_keys_update_of_a_revoked_key_says_that_it_has_no_effect(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = run(capsys, "create", "--name", "a")
    assert main(["keys", "update", made["id"], "--tokens-per-day", "1"]) == 0
    assert capsys.readouterr().err == ""
    run(capsys, "revoke", made["id"])
    assert main(["keys", "update", made["id"], "--tokens-per-day", "2"]) == 0
    assert "this key is revoked, so its limits have no effect" in capsys.readouterr().err


def test_keys_database_in_a_missing_folder_names_the_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "not there"
    assert main(["keys", "list", "--database", str(folder / "keys.db")]) == 1
    told = capsys.readouterr().err
    assert f"keys.db cannot be used: the folder '{folder}' does not exist" in told
    assert f"make it with `mkdir -p '{folder}'`" in told
    assert not folder.exists()


def test_keys_downgrade_is_undone_by_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = run(capsys, "create", "--name", "a", "--requests-per-minute", "60")
    assert run(capsys, "downgrade", "--to", "0001") == [{"schema": "0001"}]
    (listed,) = run(capsys, "list")
    assert listed["id"] == made["id"]
    assert listed["limits"]["requests_per_minute"] == "default"
    assert main(["keys", "downgrade", "--to", "0000"]) == 1
    assert "0000" in capsys.readouterr().err


def test_keys_dead_key_is_not_rotated(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = run(capsys, "create", "--name", "a")
    run(capsys, "revoke", made["id"])
    assert main(["keys", "rotate", made["id"]]) == 1
    assert "create a new key" in capsys.readouterr().err
    assert len(run(capsys, "list")) == 1


@pytest.mark.parametrize(
    "command",
    [
        ["create", "--name", "b"],
        ["update", "ID", "--tokens-per-day", "1"],
        ["rotate", "ID"],
        ["revoke", "ID"],
    ],
)
def test_keys_locked_database_exits_with_1(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.store.database._BUSY_TIMEOUT_S", 0.05)
    (made,) = run(capsys, "create", "--name", "a")
    with closing(sqlite3.connect(tmp_path / "keys.db")) as locking:
        locking.execute("BEGIN IMMEDIATE")
        assert main(["keys", *(made["id"] if word == "ID" else word for word in command)]) == 1
    told = capsys.readouterr().err
    assert "locked" in told
    assert "SQL" not in told
    assert "UPDATE" not in told
    assert len(run(capsys, "list")) == 1


def test_keys_control_characters_are_never_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Databases of earlier releases may hold them; also Unicode's line breaks and changes of direction."""
    store = open_store(Settings(key_database=str(tmp_path / "keys.db")))
    name = "a\n3f9a0c51d2e4  live\x1b[2J\u2028\u202e\x7f Zoë"
    record, _ = store.create(name=name, scopes=["inference"], models=["m\x1b[31m"])
    for command in (["list"], ["update", record.id, "--tokens-per-day", "1"], ["rotate", record.id]):
        assert main(["keys", *command]) == 0
        shown = capsys.readouterr().out
        assert "\\n3f9a0c51d2e4  live\\x1b[2J\\u2028\\u202e\\x7f Zoë" in shown
        assert all(line.isprintable() for line in shown.split("\n"))
    assert run(capsys, "list")[0]["name"] == name


def test_keys_unknown_id_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "revoke", "nosuch"]) == 1
    assert "nosuch" in capsys.readouterr().err


def test_keys_without_a_database_names_the_ways_to_set_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVAL_KEY_DATABASE")
    assert main(["keys", "list"]) == 1
    assert "SERVAL_KEY_DATABASE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["create"],
        ["create", "--name", "a\nb"],
        ["create", "--name", "a", "--scope", "root"],
        ["create", "--name", "a", "--model", "a b"],
        ["create", "--name", "a\x1b[31m"],
        ["create", "--name", "a\u202e"],
        ["create", "--name", "a", "--model", "m\x1b[31m"],
        ["create", "--name", "a", "--expires-in", "soon"],
        ["create", "--name", "a", "--requests-per-minute", "0"],
        ["update", "3f9a0c51d2e4", "--tokens-per-day", "many"],
        ["update", "3f9a0c51d2e4"],
    ],
)
def test_keys_wrong_use_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["keys", *arguments])
    assert caught.value.code == 2
