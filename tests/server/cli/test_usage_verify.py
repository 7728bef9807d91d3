"""`serval usage verify`: exit status, and the differences that it names."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serval.caller.budgets import Budget, Used
from serval.cli import main
from serval.settings import Settings
from serval.store.daily_tokens import DailyTokens
from serval.store.factory import open_store
from serval.store.key_store import KeyStore
from serval.store.usage import HOUR_S, Slot, UsageTable
from serval_testkit.redis_server import running_redis

TODAY = int(time.time() // 86_400)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyStore:
    location = str(tmp_path / "keys.db")
    monkeypatch.setenv("SERVAL_KEY_DATABASE", location)
    return open_store(Settings(key_database=location))


@pytest.fixture
def key_id(store: KeyStore) -> str:
    """A key with a budget that has used 15 tokens today."""
    record, _ = store.create(name="alice", scopes=["inference"], budgets=[Budget("tokens", "week", 100)])
    hour = TODAY * 24
    UsageTable(store.engine).add("w" * 32, 1, {Slot(record.id, "m", hour): (1, 10, 0, 5, 0, 0, 0)}, hour=hour)
    return record.id


def verified(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[Any]]:
    code = main(["usage", "verify", "--json", *options])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_verify_agrees_to_the_token(store: KeyStore, key_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = DailyTokens(store.engine)
    table.increment({(key_id, TODAY): Used(15)})
    code, found = verified(capsys)
    assert code == 0
    assert [(each["key"], each["unit"], each["verdict"]) for each in found] == [
        (key_id, "tokens", "agrees"),
        (key_id, "cost", "agrees"),
    ]
    table.increment({(key_id, TODAY): Used(1)})
    code, found = verified(capsys)
    assert (code, found[0]["difference"], found[0]["verdict"]) == (1, -1, "differs")
    assert main(["usage", "verify"]) == 1
    shown = capsys.readouterr().out
    assert "alice" in shown
    assert "2 sums of usage and budgets compared, 1 agree" in shown
    table.increment({(key_id, TODAY): Used(7, 0, 9)})
    code, found = verified(capsys)
    assert (code, found[0]["settled"], found[0]["held"], found[0]["verdict"]) == (0, 14, 9, "held")


def test_verify_finds_a_budget_whose_count_is_lost(key_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(capsys)[0] == 1
    assert verified(capsys, "--key", "another")[0] == 0


@pytest.fixture
def redis_url() -> Iterator[str]:
    with running_redis() as server:
        books = {f"cost:{TODAY}": 700, f"held:{TODAY}": 60, f"held_cost:{TODAY}": 700}
        server.admin().hset("serval:{k:oidc:a:days}:days", str(TODAY), 75)
        server.admin().hset("serval:{k:oidc:a:days}:books", mapping=books)
        yield server.url


def test_verify_reads_the_count_in_redis(
    store: KeyStore, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVAL_LIMITS_URL", redis_url)
    row = {Slot("oidc:a:days", "m", TODAY * 24): (1, 10, 0, 5, 0, 0, 0)}
    UsageTable(store.engine).add("w" * 32, 1, row, hour=int(time.time() // HOUR_S))
    code, found = verified(capsys)
    assert (code, [each["settled"] for each in found]) == (0, [15, "0.00"])
    assert [each["held"] for each in found] == [60, "0.0000007"]


def test_verify_without_its_redis_is_an_error(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVAL_LIMITS_URL", "redis://:p4ssw0rd@127.0.0.1:1")
    assert main(["usage", "verify"]) == 1
    told = capsys.readouterr().err
    assert "SERVAL_LIMITS_URL failed" in told
    assert "p4ssw0rd" not in told


def test_verify_compares_with_engines_from_the_second_time_on(
    store: KeyStore,
    key_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from serval.usage.verification import Tokens

    DailyTokens(store.engine).increment({(key_id, TODAY): Used(15)})
    counters = {"http://engine": Tokens(1000, 500)}

    async def read(urls: list[str]) -> dict[str, Tokens]:
        return counters

    monkeypatch.setattr("serval.cli.usage_verify._engine_counters", read)
    options = ("--engine", "http://engine", "--snapshot", str(tmp_path / "counters.json"))
    assert main(["usage", "verify", *options]) == 0
    capsys.readouterr()
    rows = {Slot("operator-0", "m", TODAY * 24): (1, 10, 0, 5, 0, 0, 0)}
    UsageTable(store.engine).add("v" * 32, 1, rows, hour=TODAY * 24)
    counters["http://engine"] = Tokens(1010, 506)
    assert main(["usage", "verify", *options]) == 1
    shown = capsys.readouterr().out
    assert "prompt tokens since the snapshot: usage 10, engines 10: they agree" in shown
    assert "completion tokens since the snapshot: usage 5, engines 6: they differ by 1" in shown
    assert main(["usage", "verify", *options]) == 0
    assert main(["usage", "verify", *options[:2]]) == 1
    assert "--snapshot" in capsys.readouterr().err
