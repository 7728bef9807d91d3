"""Engines in the admin API: orders that every gateway of a key database follows."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serval.cli import main
from serval_testkit.fleet import RunningFleet, new_engine
from serval_testkit.gateway import RunningGateway, running_gateway
from serval_testkit.request_log import request_lines

ADMIN_KEY = "admin-canary-71c0"


@asynccontextmanager
async def running_fleets(
    folder: Path, *, gateways: int = 1, options: tuple[str, ...] = ("", "")
) -> AsyncIterator[list[RunningFleet]]:
    """Serve gateways with one key database in front of engines, whose `options` are in the list."""
    async with AsyncExitStack() as stack:
        engines = [new_engine() for _ in options]
        for engine in engines:
            await stack.enter_async_context(engine.running())
        settings: dict[str, Any] = {
            "engine_url": ",".join(
                engine.url + option for engine, option in zip(engines, options, strict=True)
            ),
            "key_database": str(folder / "keys.db"),
            "admin_port": 1,
            "admin_key": ADMIN_KEY,
            "key_poll_s": 0.02,
        }
        fleets = [
            RunningFleet(await stack.enter_async_context(running_gateway(**settings)), engines)
            for _ in range(gateways)
        ]
        for fleet in fleets:
            for engine in engines:
                await fleet.reaches(engine, "ready")
        yield fleets


def name_of(fleet: RunningFleet, number: int) -> str:
    return fleet.engines[number].url.removeprefix("http://")


async def call(
    gateway: RunningGateway, method: str, path: str = "", key: str = ADMIN_KEY, **body: Any
) -> tuple[int, Any]:
    url = f"{gateway.admin_url}/admin/engines{path}"
    headers = {"authorization": f"Bearer {key}"}
    async with gateway.http.request(
        method, url, headers=headers, json=body if method == "POST" else None
    ) as response:
        return response.status, await response.json()


async def order(fleet: RunningFleet, number: int, what: str, **body: Any) -> tuple[int, Any]:
    return await call(fleet.gateway, "POST", f"/{name_of(fleet, number)}/{what}", **body)


async def listed(fleet: RunningFleet) -> dict[str, Any]:
    status, answer = await call(fleet.gateway, "GET")
    assert status == 200
    return {entry["name"]: entry for entry in answer["data"]}


async def test_engines_are_listed_with_state_version_weight_and_share(tmp_path: Path) -> None:
    async with running_fleets(tmp_path, options=(";version=2026-11", ";weight=5%;version=2026-12")) as (
        fleet,
    ):
        old, new = (await listed(fleet)).values()
        assert (old["version"], old["weight"], old["state"]) == ("2026-11", "1", "ready")
        assert old["share"] == pytest.approx(0.95)
        assert (new["version"], new["weight"], new["listed_weight"]) == ("2026-12", "5%", "5%")
        assert new["share"] == pytest.approx(0.05)
        metrics = await fleet.metrics()
        assert f'serval_place_info{{place="{new["name"]}",version="2026-12"}} 1.0' in metrics
        assert f'serval_place_weight{{place="{old["name"]}"}} 1.0' in metrics
        assert await fleet.is_ready()


async def test_drained_engine_gets_no_request_of_any_gateway(tmp_path: Path) -> None:
    async with running_fleets(tmp_path, gateways=2) as (one, two):
        drained, other = one.engines
        text = await two.text_of(drained)
        drained.will_say("Hello", " there", delay_s=0.5)
        drained.generating.clear()
        asking = asyncio.create_task(two.ask(text))
        await drained.generating.wait()
        status, entry = await order(one, 0, "drain")
        assert (status, entry["state"], entry["drained"], entry["share"]) == (200, "draining", True, 0.0)
        await two.reaches(drained, "draining")
        before = len(drained.requests)
        assert [await fleet.engine_of(text) for fleet in (one, two)] == [other, other]
        # The running request ends.
        assert await asking == 200
        assert len(drained.requests) == before
        assert (await order(one, 0, "undrain"))[1]["state"] == "ready"
        await two.reaches(drained, "ready")
        assert await two.engine_of(text) is drained


async def test_orders_survive_a_restart(tmp_path: Path) -> None:
    async with running_fleets(tmp_path) as (fleet,):
        await order(fleet, 0, "drain")
        await order(fleet, 1, "weight", weight="7")
        async with running_gateway(
            engine_url=",".join(engine.url for engine in fleet.engines),
            key_database=str(tmp_path / "keys.db"),
        ) as gateway:
            later = RunningFleet(gateway, fleet.engines)
            await later.reaches(fleet.engines[0], "draining")
            assert {await later.engine_of(str(number)) for number in range(8)} == {fleet.engines[1]}


async def test_last_ready_engine_is_drained_by_force_only(tmp_path: Path) -> None:
    async with running_fleets(tmp_path) as (fleet,):
        await order(fleet, 0, "drain")
        status, answer = await order(fleet, 1, "drain")
        assert (status, answer["error"]["code"]) == (400, "last_engine")
        assert await fleet.ask() == 200
        assert (await order(fleet, 1, "drain", force=True))[0] == 200
        assert await fleet.ask() == 503
        assert not await fleet.is_ready()
        # One that is drained already may be drained again.
        assert (await order(fleet, 0, "undrain"))[0] == 200
        assert (await order(fleet, 1, "drain"))[0] == 200


async def test_weight_decides_where_conversations_begin_and_known_ones_stay(tmp_path: Path) -> None:
    async with running_fleets(tmp_path) as (fleet,):
        new = fleet.engines[1]
        # Long enough for the index to know where it is.
        known = await fleet.text_of(new, then=" and so on" * 600)
        status, entry = await order(fleet, 1, "weight", weight=0)
        assert (status, entry["weight"], entry["listed_weight"], entry["share"]) == (200, "0", "1", 0.0)
        assert {await fleet.engine_of(f"New {number}") for number in range(12)} == {fleet.engines[0]}
        assert await fleet.engine_of(known) is new
        assert (await order(fleet, 1, "weight", weight="listed"))[1]["weight"] == "1"
        assert new in {await fleet.engine_of(f"New {number}") for number in range(12)}


async def test_orders_that_cannot_be_followed_are_refused_with_what_is_allowed(tmp_path: Path) -> None:
    async with running_fleets(tmp_path, options=("", ";weight=60%")) as (fleet,):
        for weight in ("5x", "100%", -1, 101, "Listed"):
            status, answer = await order(fleet, 0, "weight", weight=weight)
            assert status == 400, weight
            assert answer["error"]["param"].startswith("weight")
        status, answer = await order(fleet, 0, "weight", weight="40%")
        assert (status, "add up to 100%" in answer["error"]["message"]) == (400, True)
        assert (await order(fleet, 1, "weight", weight="90%"))[0] == 200
        status, answer = await call(fleet.gateway, "POST", "/absent:1/drain")
        assert (status, answer["error"]["code"]) == (404, "engine_not_found")
        assert name_of(fleet, 0) in answer["error"]["message"]
        assert (await call(fleet.gateway, "GET", key="wrong"))[0] == 401


async def test_gateway_with_one_engine_has_nothing_to_manage(tmp_path: Path) -> None:
    async with running_gateway(
        key_database=str(tmp_path / "keys.db"), admin_port=1, admin_key=ADMIN_KEY
    ) as gateway:
        status, answer = await call(gateway, "GET")
        assert (status, answer["error"]["code"]) == (400, "single_engine")


async def test_log_has_the_order_and_the_place_of_each_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running_fleets(tmp_path, options=("", ";version=new")) as (fleet,):
        await order(fleet, 0, "drain")
        assert await fleet.ask() == 200
        orders = [
            record.__dict__["fields"] for record in caplog.records if record.message == "engine ordered"
        ]
        assert orders == [{"engine": name_of(fleet, 0), "order": "drain", "key_id": None}]
        (line,) = [line for line in request_lines(caplog) if line["route"] == "/v1/chat/completions"]
        assert (line["place"], line["engine_version"]) == (name_of(fleet, 1), "new")


async def test_command_lists_and_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVAL_ADMIN_KEY", ADMIN_KEY)
    async with running_fleets(tmp_path, options=("", ";version=new")) as (fleet,):

        async def said(*arguments: str, code: int = 0) -> str:
            argv = ["engines", *arguments, "--admin-url", fleet.gateway.admin_url]
            assert await asyncio.to_thread(main, argv) == code
            output = capsys.readouterr()
            return output.err if code else output.out

        name = name_of(fleet, 1)
        assert "SHARE" in await said("list")
        weighed = json.loads(await said("weight", name, "5%", "--json"))
        assert weighed["share"] == pytest.approx(0.05)
        assert "5% (listed: 1)" in await said("list")
        assert "draining (by order)" in await said("drain", name)
        assert "serval engines: error: No other engine is ready" in await said(
            "drain", name_of(fleet, 0), code=1
        )
        assert "draining" in await said("drain", name_of(fleet, 0), "--force")
        assert "ready" in await said("undrain", name)
        assert "No engine is named 'absent'" in await said("drain", "absent", code=1)


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        ({}, ["list"], "set SERVAL_ADMIN_PORT as the gateway has it, or give --admin-url"),
        ({"SERVAL_ADMIN_PORT": "1"}, ["list"], "no key: set SERVAL_ADMIN_KEY"),
        (
            {"SERVAL_ADMIN_PORT": "1", "SERVAL_ADMIN_KEY": "a"},
            ["drain", "a:1"],
            "the admin API at http://127.0.0.1:1/admin/engines/a%3A1/drain cannot be asked",
        ),
    ],
)
def test_command_says_what_is_missing(
    variables: dict[str, str],
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("SERVAL_ADMIN_PORT", "SERVAL_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["engines", *arguments]) == 1
    assert message in capsys.readouterr().err
