"""`GET /v1/usage` and `GET /admin/usage`, and what is counted."""

import asyncio
import csv
import io
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.types import Message, Receive, Scope, Send

from serval.api.edge import RequestEdge
from serval.api.endpoints import API, CHAT_COMPLETIONS
from serval.auth.authenticator import Authenticator
from serval.caller.identity import Identity
from serval.settings import Settings
from serval.store.factory import open_store
from serval.telemetry.metrics import Metrics
from serval.telemetry.record import RequestRecord
from serval.usage.recorder import UsageRecorder
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
ADMIN_KEY = "admin-canary-83b2"
CALL = "<longcat_tool_call>f\n</longcat_tool_call>\n"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("serval.usage.recorder.WRITE_EVERY_S", 0.02)
    return str(tmp_path / "keys.db")


async def report(gateway: RunningGateway, query: str = "", *, admin: bool = True) -> list[dict[str, Any]]:
    url = gateway.admin_url + "/admin/usage" if admin else gateway.url + "/v1/usage"
    key = ADMIN_KEY if admin else API_KEY
    async with gateway.http.get(url + query, headers={"authorization": f"Bearer {key}"}) as response:
        assert response.status == 200, await response.text()
        rows: list[dict[str, Any]] = (await response.json())["data"]
        return rows


async def report_of(gateway: RunningGateway, requests: int, query: str = "") -> list[dict[str, Any]]:
    """The report, once it has this number of requests."""
    async with asyncio.timeout(60):
        while True:
            rows = await report(gateway, query)
            if sum(row["requests"] for row in rows) >= requests:
                return rows


async def test_usage_of_keys_adds_up_to_the_answers(database: str) -> None:
    record, key = open_store(Settings(key_database=database)).create(name="alice", scopes=["inference"])
    async with running_gateway(key_database=database, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        usage = []
        for sender in (API_KEY, key, key):
            gateway.engine.will_say(CALL)
            headers = {"authorization": f"Bearer {sender}"}
            answer = await (await gateway.post({**CHAT, "tools": [TOOL]}, headers=headers)).json()
            usage.append(answer["usage"])
        refused = await gateway.post({**CHAT, "temperature": -1})
        assert refused.status == 400
        alice, operator = sorted(await report_of(gateway, 4), key=lambda row: row["name"] is None)
        assert (alice["key"], alice["name"], alice["model"]) == (record.id, "alice", MODEL)
        assert (alice["requests"], alice["errors"], alice["tool_calls"]) == (2, 0, 2)
        assert alice["prompt_tokens"] == sum(each["prompt_tokens"] for each in usage[1:])
        assert alice["completion_tokens"] == sum(each["completion_tokens"] for each in usage[1:])
        assert (operator["key"], operator["name"]) == ("operator-0", None)
        assert (operator["requests"], operator["errors"]) == (2, 1)
        (mine,) = await report(gateway, admin=False)
        assert (mine["key"], mine["requests"], mine["model"]) == (None, 2, MODEL)
        (only,) = await report(gateway, f"?group_by=hour&key={record.id}")
        assert (only["requests"], only["start"] % 3600) == (2, 0)
        assert await report(gateway, "?start=2020-01-01&end=2020-02-01") == []
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        async with gateway.http.get(
            f"{gateway.admin_url}/admin/usage?format=csv", headers=headers
        ) as response:
            assert response.content_type == "text/csv"
            rows = list(csv.DictReader(io.StringIO(await response.text())))
        assert {row["name"]: row["requests"] for row in rows} == {"alice": "2", "": "2"}
        assert rows[0]["start"].endswith("T00:00:00Z")


async def test_usage_of_a_stream_whose_client_leaves_is_what_was_written(database: str) -> None:
    async with running_gateway(key_database=database, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        gateway.engine.will_say("One", " two", fault="stall")
        headers = {"authorization": f"Bearer {API_KEY}"}
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.http.post(url, json={**CHAT, "stream": True}, headers=headers) as response:
            seen = b""
            while b" two" not in seen:
                seen += await response.content.readany()
            assert await report(gateway) == []
            response.close()
        (row,) = await report_of(gateway, 1)
        assert (row["requests"], row["errors"]) == (1, 0)
        assert row["prompt_tokens"] == len(gateway.engine.requests[0]["input_ids"])
        assert row["completion_tokens"] > 0


async def test_usage_of_a_stream_that_breaks_is_an_error_with_its_tokens(database: str) -> None:
    async with running_gateway(key_database=database, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        gateway.engine.will_say("One", " two", fault="hang_up")
        assert (await gateway.post({**CHAT, "stream": True})).status == 200
        (row,) = await report_of(gateway, 1)
        assert (row["requests"], row["errors"]) == (1, 1)
        assert row["completion_tokens"] > 0


async def test_usage_is_counted_before_the_client_has_the_whole_answer() -> None:
    """A client that has a whole answer finds it in the ledger, even if the process is killed at once."""
    happened: list[str] = []

    class Anyone:
        async def identify(self, authorization: str | None) -> Identity:
            return Identity(frozenset({"inference"}))

    class Counting:
        def count(self, record: RequestRecord) -> None:
            happened.append(f"counted for {record.subject}")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(message: Message) -> None:
        happened.append("end" if message.get("more_body") is False else "beginning")

    edge = RequestEdge(
        app,
        hot={CHAT_COMPLETIONS.path: app},
        endpoints=API,
        authenticator=cast("Authenticator", Anyone()),
        metrics=Metrics(),
        usage=cast("UsageRecorder", Counting()),
    )
    scope = {"type": "http", "method": "POST", "path": CHAT_COMPLETIONS.path, "headers": []}
    await edge(scope, cast("Receive", None), send)
    counted = "counted for operator-0"
    assert happened == ["beginning", "beginning", counted, "end", counted]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?group_by=colour", "group_by"),
        ("?start=2026-02-02&end=2026-02-02", "start"),
        ("?start=soon", "start"),
        ("?format=xml", "format"),
        ("?key=a%00b", "key"),
        ("?limit=3", "limit"),
    ],
)
async def test_usage_query_that_cannot_be_answered_is_refused(database: str, query: str, param: str) -> None:
    async with running_gateway(key_database=database, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        async with gateway.http.get(f"{gateway.admin_url}/admin/usage{query}", headers=headers) as response:
            assert response.status == 400
            assert param in (await response.json())["error"]["param"]


async def test_usage_report_that_is_too_long_is_refused(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.usage.report.MOST_ROWS", 0)
    async with running_gateway(key_database=database, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        await gateway.post(CHAT)
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}

        async def status() -> int:
            async with gateway.http.get(f"{gateway.admin_url}/admin/usage", headers=headers) as response:
                return response.status

        async with asyncio.timeout(60):
            while await status() != 400:
                pass


@pytest.mark.parametrize("settings", [{}, {"key_database": "keys.db", "usage_keep_days": 0}])
async def test_usage_that_is_not_kept_is_a_404(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    async with running_gateway(**settings) as gateway:
        response = await gateway.get("/v1/usage")
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "usage_not_kept"
