"""The gateway with a key database, and its admin API."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from serval.auth.directory import KeyDirectory
from serval.live_settings import read_live_settings
from serval.settings import Settings
from serval.store.factory import open_store
from serval.store.key_store import KeyStore
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.gateway_process import wait_until
from serval_testkit.request_log import request_lines

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
ADMIN_KEY = "admin-canary-71c0"


def store_of(key_database: str) -> KeyStore:
    return open_store(Settings(key_database=key_database))


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return str(tmp_path / "keys.db")


async def ask(gateway: RunningGateway, key: str, path: str = "/v1/chat/completions") -> Any:
    return await gateway.post(CHAT, path=path, headers={"authorization": f"Bearer {key}"})


async def wait_until_refused(gateway: RunningGateway, key: str) -> None:
    async with asyncio.timeout(120):
        while (await ask(gateway, key)).status != 401:
            pass


async def test_database_keys_and_operator_key_are_accepted(sqlite: str) -> None:
    _, key = store_of(sqlite).create(name="a", scopes=["inference"])
    async with running_gateway(key_database=sqlite) as gateway:
        assert (await ask(gateway, key)).status == 200
        assert (await ask(gateway, API_KEY)).status == 200
        assert (await ask(gateway, key + "x")).status == 401


async def test_empty_database_accepts_no_request(sqlite: str) -> None:
    async with running_gateway(key_database=sqlite, api_key=None) as gateway:
        response = await gateway.get("/v1/models", key=None)
        assert response.status == 401


async def test_revoked_key_is_refused_by_every_gateway(key_database: str) -> None:
    store = store_of(key_database)
    record, key = store.create(name="a", scopes=["inference"])
    async with (
        running_gateway(key_database=key_database) as one,
        running_gateway(key_database=key_database) as two,
    ):
        for gateway in (one, two):
            assert (await ask(gateway, key)).status == 200
        await asyncio.to_thread(store.revoke, record.id)
        for gateway in (one, two):
            await wait_until_refused(gateway, key)
            response = await ask(gateway, key)
            assert (await response.json())["error"]["code"] == "invalid_api_key"


async def test_scopes_and_models_of_keys_are_enforced(sqlite: str) -> None:
    store = store_of(sqlite)
    _, admin = store.create(name="admin", scopes=["admin"])
    _, other = store.create(name="other", scopes=["inference"], models=["other"])
    _, mine = store.create(name="mine", scopes=["inference"], models=[MODEL])
    async with running_gateway(key_database=sqlite, model_aliases="alias other") as gateway:
        response = await ask(gateway, admin)
        assert response.status == 403
        assert (await response.json())["error"]["code"] == "insufficient_permissions"
        for name, path in product(
            (MODEL, "alias", "other"), ("/v1/chat/completions", "/v1/completions", "/tokenize")
        ):
            body = (
                {"model": name, "prompt": "x"} if path != "/v1/chat/completions" else {**CHAT, "model": name}
            )
            headers = {"authorization": f"Bearer {other}"}
            response = await gateway.post(body, path=path, headers=headers)
            assert response.status == 403
            error = (await response.json())["error"]
            assert (error["code"], error["param"]) == ("model_not_allowed", "model")
        assert (await (await gateway.get("/v1/models", key=other)).json())["data"] == []
        assert (await gateway.get(f"/v1/models/{MODEL}", key=other)).status == 403
        assert (await ask(gateway, mine)).status == 200
        assert len((await (await gateway.get("/v1/models", key=mine)).json())["data"]) == 3
        assert len(gateway.engine.requests) == 1


async def test_log_names_the_key_by_its_public_part(sqlite: str, caplog: pytest.LogCaptureFixture) -> None:
    record, key = store_of(sqlite).create(name="a", scopes=["inference"])
    caplog.set_level("INFO", "serval.requests")
    async with running_gateway(key_database=sqlite) as gateway:
        await ask(gateway, key)
        metrics = await (await gateway.get("/metrics")).text()
    lines = request_lines(caplog)
    assert record.id in {line["key_id"] for line in lines}
    assert key.rpartition("-")[2] not in caplog.text + repr(lines) + metrics


async def admin_call(
    gateway: RunningGateway, method: str, path: str, key: str = ADMIN_KEY, **options: Any
) -> Any:
    headers = {"authorization": f"Bearer {key}"}
    async with gateway.http.request(method, gateway.admin_url + path, headers=headers, **options) as response:
        await response.read()
        return response


async def test_admin_api_creates_lists_rotates_and_revokes_keys(key_database: str) -> None:
    async with running_gateway(key_database=key_database, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        response = await admin_call(gateway, "POST", "/admin/keys", json={"name": "a", "models": [MODEL]})
        assert response.status == 201
        assert response.headers["cache-control"] == "no-store"
        made = await response.json()
        assert (await ask(gateway, made["key"])).status == 200
        listed = await (await admin_call(gateway, "GET", "/admin/keys")).json()
        assert [key["id"] for key in listed["data"]] == [made["id"]]
        assert "key" not in listed["data"][0]
        assert "digest" not in listed["data"][0]
        response = await admin_call(gateway, "POST", f"/admin/keys/{made['id']}/rotate", json={})
        rotated = await response.json()
        # The worker that serves the admin API applies its changes immediately.
        assert (await ask(gateway, made["key"])).status == 401
        assert (await ask(gateway, rotated["key"])).status == 200
        assert (await admin_call(gateway, "DELETE", f"/admin/keys/{rotated['id']}")).status == 200
        assert (await ask(gateway, rotated["key"])).status == 401


async def test_admin_api_sets_limits_with_immediate_effect(sqlite: str) -> None:
    async with running_gateway(key_database=sqlite, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        body = {"name": "a", "limits": {"requests_per_minute": 1, "tokens_per_day": 5000}}
        made = await (await admin_call(gateway, "POST", "/admin/keys", json=body)).json()
        assert [(await ask(gateway, made["key"])).status for _ in range(2)] == [200, 429]
        changes = {"limits": {"requests_per_minute": "unlimited"}}
        response = await admin_call(gateway, "PATCH", f"/admin/keys/{made['id']}", json=changes)
        assert (await response.json())["limits"] == {
            "requests_per_minute": "unlimited",
            "tokens_per_minute": "default",
            "concurrent_requests": "default",
            "tokens_per_day": 5000,
        }
        assert (await ask(gateway, made["key"])).status == 200


async def test_admin_api_needs_the_admin_scope_and_has_its_own_port(sqlite: str) -> None:
    store = store_of(sqlite)
    _, user = store.create(name="user", scopes=["inference"])
    _, admin = store.create(name="admin", scopes=["admin"])
    async with running_gateway(key_database=sqlite, admin_port=0) as gateway:
        assert (await admin_call(gateway, "GET", "/admin/keys", key=admin)).status == 200
        assert (await admin_call(gateway, "GET", "/admin/keys", key=user)).status == 403
        # SERVAL_API_KEY does not open the admin API, and without SERVAL_ADMIN_KEY no operator key does.
        for key in (API_KEY, "", "x"):
            assert (await admin_call(gateway, "GET", "/admin/keys", key=key)).status == 401
        assert (await gateway.get("/admin/keys", key=API_KEY)).status == 404
        assert (await gateway.get("/admin/keys", key=admin)).status == 403
        assert (await admin_call(gateway, "GET", "/v1/models", key=admin)).status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/admin/keys", {}, 400, "name"),
        ("POST", "/admin/keys", {"name": ""}, 400, "name"),
        ("POST", "/admin/keys", {"name": "a", "scopes": ["root"]}, 400, "scopes"),
        ("POST", "/admin/keys", {"name": "a", "scopes": []}, 400, "scopes"),
        ("POST", "/admin/keys", {"name": "a", "models": ["a b"]}, 400, "models[0]"),
        ("POST", "/admin/keys", {"name": "a\nb"}, 400, "name"),
        ("POST", "/admin/keys", {"name": "a\0"}, 400, "name"),
        ("POST", "/admin/keys", {"name": "\x1b[31ma"}, 400, "name"),
        ("POST", "/admin/keys", {"name": "a\u202eb"}, 400, "name"),
        ("POST", "/admin/keys", {"name": "a\u2028b"}, 400, "name"),
        ("POST", "/admin/keys", {"name": "a", "models": ["m", "m\0"]}, 400, "models[1]"),
        ("POST", "/admin/keys", {"name": "a", "models": ["\x1b[31m"]}, 400, "models[0]"),
        ("POST", "/admin/keys", {"name": "a", "expires_in_s": -1}, 400, "expires_in_s"),
        ("POST", "/admin/keys", {"name": "a", "admin": True}, 400, "admin"),
        ("POST", "/admin/keys", {"name": "a", "limits": {"tokens_per_day": 0}}, 400, "limits.tokens_per_day"),
        ("POST", "/admin/keys", {"name": "a", "limits": {"dollars": 1}}, 400, "limits.dollars"),
        ("PATCH", "/admin/keys/nosuch", {"limits": {"tokens_per_day": 1}}, 404, "key_id"),
        ("POST", "/admin/keys/nosuch/rotate", {}, 404, "key_id"),
        ("DELETE", "/admin/keys/nosuch", None, 404, "key_id"),
        ("DELETE", "/admin/keys/%00", None, 404, "key_id"),
        ("PUT", "/admin/keys", None, 405, None),
        ("GET", "/admin", None, 404, None),
    ],
)
async def test_admin_api_errors_name_the_parameter(
    sqlite: str, method: str, path: str, body: Any, status: int, param: str | None
) -> None:
    async with running_gateway(key_database=sqlite, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        response = await admin_call(gateway, method, path, json=body)
        assert response.status == status
        error = (await response.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] == param
        assert store_of(sqlite).load()[1] == []


async def test_admin_api_dead_key_cannot_be_rotated(sqlite: str) -> None:
    async with running_gateway(key_database=sqlite, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        made = await (await admin_call(gateway, "POST", "/admin/keys", json={"name": "a"})).json()
        await admin_call(gateway, "DELETE", f"/admin/keys/{made['id']}")
        response = await admin_call(gateway, "POST", f"/admin/keys/{made['id']}/rotate", json={})
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["param"]) == (400, "key_not_live", "key_id")
        assert len(store_of(sqlite).load()[1]) == 1


@contextmanager
def locked(database: str) -> Iterator[None]:
    with closing(sqlite3.connect(database)) as locking:
        locking.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def broken(database: str) -> Iterator[None]:
    with closing(sqlite3.connect(database)) as breaking:
        breaking.execute("ALTER TABLE api_keys RENAME TO gone")
        yield
        breaking.execute("ALTER TABLE gone RENAME TO api_keys")


WRITES = [
    ("POST", "/admin/keys", {"name": "a-name"}),
    ("PATCH", "/admin/keys/ID", {"limits": {"tokens_per_day": 1}}),
    ("POST", "/admin/keys/ID/rotate", {}),
    ("DELETE", "/admin/keys/ID", None),
]


@pytest.mark.parametrize(
    ("fail", "method", "path", "body"),
    [
        *((locked, *write) for write in WRITES),
        *((broken, *write) for write in WRITES),
        (broken, "GET", "/admin/keys", None),
    ],
)
async def test_admin_api_database_that_fails_is_a_503(
    sqlite: str,
    fail: Any,
    method: str,
    path: str,
    body: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serval.store.database._BUSY_TIMEOUT_S", 0.05)
    record, _ = store_of(sqlite).create(name="a", scopes=["inference"])
    async with running_gateway(key_database=sqlite, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        with fail(sqlite):
            response = await admin_call(gateway, method, path.replace("ID", record.id), json=body)
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "key_database_unavailable")
        assert response.headers["retry-after"] == "2"
        assert store_of(sqlite).load()[1] == [record]
    for told in ("SELECT", "INSERT", "UPDATE", "Traceback", "a-name", record.id):
        assert told not in caplog.text
    assert "locked" in caplog.text or "no such table" in caplog.text


async def test_admin_api_new_key_is_shown_even_if_it_cannot_be_read_again(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refresh(self: KeyDirectory) -> None:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    async with running_gateway(key_database=sqlite, admin_port=0, admin_key=ADMIN_KEY) as gateway:
        with monkeypatch.context() as failing:
            failing.setattr(KeyDirectory, "refresh", refresh)
            response = await admin_call(gateway, "POST", "/admin/keys", json={"name": "a"})
        assert response.status == 201
        key = (await response.json())["key"]
        async with asyncio.timeout(60):
            while (await ask(gateway, key)).status != 200:
                pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("state", ["writing", "silent", "queued"])
async def test_requests_of_a_revoked_key_are_ended(key_database: str, stream: bool, state: str) -> None:
    """Those of other keys go on. Also tried below: a key that is rotated, and one that expires."""
    store = store_of(key_database)
    record, key = store.create(name="a", scopes=["inference"])
    async with running_gateway(key_database=key_database, engine_slots=2) as gateway:
        gateway.engine.will_say("x", fault="stall")
        other = asyncio.create_task(gateway.post({**CHAT, "stream": True}))
        await wait_until(lambda: len(gateway.engine.requests) == 1)
        if state == "queued":
            gateway.engine.will_say("x", fault="stall")
            another = asyncio.create_task(gateway.post({**CHAT, "stream": True}))
            await wait_until(lambda: len(gateway.engine.requests) == 2)
        gateway.engine.will_say("x", fault="stall" if state == "writing" else "silent")
        headers = {"authorization": f"Bearer {key}"}
        asked = asyncio.create_task(gateway.post({**CHAT, "stream": stream}, headers=headers))
        if state == "queued":
            async with asyncio.timeout(60):
                while 'depth{class="default"} 1.0' not in await (await gateway.get("/metrics")).text():
                    pass
        else:
            await wait_until(lambda: len(gateway.engine.requests) == 2)
        await asyncio.to_thread(store.revoke, record.id)
        await assert_ended(await asyncio.wait_for(asked, 60))
        if state != "queued":
            await wait_until(lambda: len(gateway.engine.aborted) == 1)
        assert not other.done()
        other.cancel()
        if state == "queued":
            another.cancel()


async def assert_ended(response: Any) -> None:
    """Check that the answer is an error of the key, or a stream that ends with one."""
    text = (await response.text()).removesuffix("\n\n")
    if response.status == 200:
        text = text.rpartition("data: ")[2]
    else:
        assert response.status == 401
    error = json.loads(text)["error"]
    assert error["code"] == "invalid_api_key"
    assert "while the request ran" in error["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("way", ["rotated", "expired", "deleted"])
async def test_requests_of_a_key_that_dies_are_ended(sqlite: str, way: str, path: str) -> None:
    store = store_of(sqlite)
    record, key = store.create(name="a", scopes=["inference"], expires_in_s=2 if way == "expired" else None)
    async with running_gateway(key_database=sqlite) as gateway:
        gateway.engine.will_say("x", fault="stall")
        gateway.engine.will_say("x", fault="stall")
        body = {"model": MODEL, "prompt": [1], "stream": True, "n": 2}
        if path == "/v1/chat/completions":
            body = {**CHAT, "stream": True, "n": 2}
        headers = {"authorization": f"Bearer {key}"}
        asked = asyncio.create_task(gateway.post(body, path=path, headers=headers))
        await wait_until(lambda: len(gateway.engine.requests) == 2)
        if way == "rotated":
            await asyncio.to_thread(store.rotate, record.id)
        elif way == "deleted":
            with closing(sqlite3.connect(sqlite)) as deleting:
                deleting.execute("DELETE FROM api_keys")
                deleting.execute("UPDATE key_store SET version = version + 1")
                deleting.commit()
        await assert_ended(await asyncio.wait_for(asked, 60))
        await wait_until(lambda: len(gateway.engine.aborted) == 2)


async def test_requests_of_a_withdrawn_operators_key_are_ended(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-one\nsk-two\n")
    async with running_gateway(api_key_file=keys) as gateway:
        for _ in range(2):
            gateway.engine.will_say("x", fault="stall")
        asked = [
            asyncio.create_task(
                gateway.post({**CHAT, "stream": True}, headers={"authorization": f"Bearer {key}"})
            )
            for key in ("sk-one", "sk-two")
        ]
        await wait_until(lambda: len(gateway.engine.requests) == 2)
        settings = Settings(api_key=API_KEY, api_key_file=keys)
        before = read_live_settings(settings)
        keys.write_text("sk-two\n")
        gateway.apply(read_live_settings(settings, before=before))
        await assert_ended(await asyncio.wait_for(asked[0], 60))
        assert not asked[1].done()
        asked[1].cancel()
