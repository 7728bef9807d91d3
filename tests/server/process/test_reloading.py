"""Reload of keys and limits while the gateway runs; an unusable file changes nothing."""

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from serval.caller.limits import Limits
from serval.caller.prices import Price
from serval.live_settings import LiveSettings, from_line, read_live_settings, to_line
from serval.process import reloading
from serval.process.reloading import settings_changes, stamp
from serval.settings import Settings
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import GatewayProgram, gateway_program, wait_until
from serval_testkit.stand_in_engine import StandInEngine


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a key file that holds `one` and `two`, and an empty settings file."""
    keys, file = tmp_path / "keys", tmp_path / "settings.toml"
    keys.write_text("one\ntwo\n")
    file.write_text("")
    return Settings(api_key_file=keys, settings_file=file)


def write(settings: Settings, *, keys: str | None = None, file: str | None = None) -> None:
    """Replace the text of the files."""
    for path, text in ((settings.api_key_file, keys), (settings.settings_file, file)):
        if text is not None:
            assert path is not None
            path.write_text(text)


def test_live_settings_keys_keep_their_index(settings: Settings) -> None:
    live = read_live_settings(settings)
    assert live.keys == ("one", "two")
    write(settings, keys="three\ntwo\n")
    live = read_live_settings(settings, before=live)
    assert live.keys == ("", "two", "three")
    write(settings, keys="one\nthree\n")
    assert read_live_settings(settings, before=live).keys == ("", "", "three", "one")


def test_live_settings_round_trip_as_a_line_and_hide_keys_in_repr() -> None:
    live = LiveSettings(
        keys=("a  b", "ü"),
        limits=Limits(tokens_per_day=3),
        reserved_completion_tokens=5,
        model_aliases=("claude-*",),
    )
    line = to_line(live)
    assert from_line(line) == live
    assert len(line.split()) == 1
    assert "ü" not in repr(live)


async def test_settings_changes_yields_changes_and_logs_errors(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="serval.process.reloading")
    live = read_live_settings(settings)
    changes = settings_changes(settings, live, requested=asyncio.Event(), poll_s=0.02)
    for keys, file, expected in [
        ("one\n", None, (("one", ""), None)),
        (None, "requests_per_minute = 7\nport = 1\nmodel_aliases = 'a  claude-*'", (("one", ""), 7)),
    ]:
        changing = asyncio.ensure_future(anext(changes))
        write(settings, keys=keys, file=file)
        live = await asyncio.wait_for(changing, 60)
        assert (live.keys, live.limits.requests_per_minute) == expected
    assert live.model_aliases == ("a", "claude-*")
    assert caplog.records[-1].__dict__["fields"]["need_a_restart"] == ["port"]

    next_change = asyncio.ensure_future(anext(changes))
    for number, (wrong, reason) in enumerate(
        [
            ({"keys": "# none"}, "holds no key"),
            ({"keys": "one", "file": "requests_per_minute = -1"}, "requests_per_minute"),
            ({"file": "requests per minute"}, "line 1"),
            ({"file": "tokens_per_day = 5"}, "SERVAL_KEY_DATABASE"),
        ]
    ):
        caplog.clear()
        write(settings, **wrong)
        await wait_until(lambda: bool(caplog.records))
        assert caplog.records[0].levelname == "ERROR"
        assert reason in caplog.records[0].__dict__["fields"]["reason"], number
        assert not next_change.done()
    write(settings, file="requests_per_minute = 8")
    assert (await asyncio.wait_for(next_change, 60)).limits == Limits(requests_per_minute=8)


async def test_settings_changes_yields_changed_prices_and_keeps_them_while_they_are_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[m]\nprompt = 1\ncompletion = 2\n")
    settings = Settings(prices_file=prices)
    live = read_live_settings(settings)
    assert live.prices == (("m", Price(1000, 1000, 2000)),)
    requested = asyncio.Event()
    changes = settings_changes(settings, live, requested=requested, poll_s=3600)
    changing = asyncio.ensure_future(anext(changes))
    prices.write_text("[m]\nprompt = 1\n")
    requested.set()
    await wait_until(lambda: any("cannot be taken over" in record.message for record in caplog.records))
    prices.write_text("[m]\nprompt = 1\ncached = 0.5\ncompletion = 2\n")
    requested.set()
    changed = await asyncio.wait_for(changing, 60)
    assert changed.prices == (("m", Price(1000, 500, 2000)),)
    assert from_line(to_line(changed)) == changed


async def test_settings_changes_skips_a_file_that_is_being_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(f"key-{number}\n" for number in range(6))

    def stamp_while_it_grows(file: Path) -> Any:
        if file == settings.api_key_file:
            with file.open("a") as growing:
                growing.write(next(lines, ""))
        return stamp(file)

    monkeypatch.setattr(reloading, "stamp", stamp_while_it_grows)
    live = read_live_settings(settings)
    changes = settings_changes(settings, live, requested=asyncio.Event(), poll_s=0.01)
    assert len((await asyncio.wait_for(anext(changes), 60)).keys) == 2 + 6


async def test_settings_changes_reads_at_once_on_request(settings: Settings) -> None:
    requested = asyncio.Event()
    changes = settings_changes(settings, read_live_settings(settings), requested=requested, poll_s=3600)
    changing = asyncio.ensure_future(anext(changes))
    write(settings, keys="two")
    requested.set()
    assert (await asyncio.wait_for(changing, 60)).keys == ("", "two")
    assert not requested.is_set()


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as running:
        yield running


async def statuses(gateway: GatewayProgram, key: str, number: int = 24) -> Counter[int]:
    """The statuses of concurrent requests, which the kernel spreads over the workers."""
    headers = {"authorization": f"Bearer {key}"}
    return Counter(await asyncio.gather(*(gateway.chat_status(headers) for _ in range(number))))


async def until_all(gateway: GatewayProgram, key: str, status: int) -> None:
    async with asyncio.timeout(120):
        while set(await statuses(gateway, key)) != {status}:
            pass


async def test_workers_all_apply_changes_and_replacements_start_with_them(
    engine: StandInEngine, settings: Settings
) -> None:
    options = ("--api-key-file", str(settings.api_key_file), "--settings-file", str(settings.settings_file))
    async with gateway_program(engine.url, *options, "--workers", "2") as gateway:
        await until_all(gateway, "one", 200)
        write(settings, keys="two\nthree\n")
        await until_all(gateway, "three", 200)
        await until_all(gateway, "one", 401)

        write(settings, keys="# none", file="requests_per_minute = -1")
        gateway.program.signal(signal.SIGHUP)
        refused = await gateway.wait_for_line("the old ones stay in force")
        assert "requests_per_minute" in refused
        os.kill(min(gateway.workers), signal.SIGKILL)
        await gateway.wait_for_line("worker serves again")
        await until_all(gateway, "three", 200)
        await until_all(gateway, "one", 401)

        # The limit is that of all workers together: the parent counts for them.
        write(settings, keys="two\nthree\n", file="requests_per_minute = 1")
        gateway.program.signal(signal.SIGHUP)
        await gateway.wait_for_line('"requests_per_minute":1')
        async with asyncio.timeout(120):
            while not (await statuses(gateway, "three"))[429]:
                pass
        assert (await statuses(gateway, "two"))[200] <= 2
        assert not any("one" in line or "three" in line for line in gateway.program.lines if "again" in line)


async def test_gateway_applies_changes_without_a_break(engine: StandInEngine, settings: Settings) -> None:
    options = ("--api-key-file", str(settings.api_key_file), "--settings-file", str(settings.settings_file))
    async with gateway_program(engine.url, *options) as gateway:
        write(settings, keys="two\nthree\n", file="concurrent_requests = 1")
        gateway.program.signal(signal.SIGHUP)
        await gateway.wait_for_line("settings read again")
        assert await statuses(gateway, "one", 1) == {401: 1}
        engine.will_say("begin", fault="stall")
        headers = {"authorization": "Bearer three"}
        stream = asyncio.create_task(gateway.chat_status(headers, stream=True))
        await asyncio.wait_for(engine.generating.wait(), 60)
        assert await statuses(gateway, "three", 1) == {429: 1}
        assert await statuses(gateway, "two", 1) == {200: 1}
        stream.cancel()
        gateway.program.signal(signal.SIGTERM)
        assert await gateway.end() == 0
