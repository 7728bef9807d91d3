"""Signing in and out."""

import asyncio
import logging
from pathlib import Path

import pytest

from serval.console.attempts import PER_ADDRESS
from serval.settings import Settings
from serval.store.factory import open_store
from serval_testkit.console import ADMIN_KEY, Visitor, running_console, visiting
from serval_testkit.gateway import API_KEY, RunningGateway
from serval_testkit.request_log import request_lines

CODE = "c" * 40


async def test_sign_in_by_the_admin_key_begins_a_session(console: tuple[RunningGateway, Visitor]) -> None:
    _, visitor = console
    answer = await visitor.sign_in()
    assert answer.status == 200
    (cookie,) = answer.cookies
    assert ADMIN_KEY not in cookie + answer.text
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    # A page that leads on by itself: after a redirect from another site the cookie would not be sent.
    assert '<meta http-equiv="refresh" content="0;url=/console">' in answer.text
    assert (await visitor.get("/console")).status == 200


async def test_cookie_is_secure_behind_a_proxy_that_ends_tls(console: tuple[RunningGateway, Visitor]) -> None:
    _, visitor = console
    answer = await visitor.send("/console/sign-in", {"key": ADMIN_KEY}, **{"x-forwarded-proto": "https"})
    assert "; Secure" in answer.cookies[0]


async def test_sign_in_by_another_key_is_refused(console: tuple[RunningGateway, Visitor]) -> None:
    _, visitor = console
    for key in ("", "wrong", API_KEY, ADMIN_KEY[:-1], "\u00e9", "eyJhbGciOiJub25lIn0.e30."):
        answer = await visitor.sign_in(key)
        assert (answer.status, answer.cookies) == (401, []), key
        assert "This is no key with the scope admin." in answer.text
        assert not key or key not in answer.text
    assert (await visitor.get("/console")).status == 303


async def test_sign_in_from_another_site_is_refused(console: tuple[RunningGateway, Visitor]) -> None:
    _, visitor = console
    answer = await visitor.send("/console/sign-in", {"key": ADMIN_KEY}, origin="https://evil.example")
    assert (answer.status, answer.cookies) == (403, [])


async def test_attempts_are_bounded(console: tuple[RunningGateway, Visitor]) -> None:
    _, visitor = console
    for _ in range(PER_ADDRESS):
        assert (await visitor.sign_in("wrong")).status == 401
    answer = await visitor.sign_in(ADMIN_KEY)
    assert (answer.status, answer.cookies) == (429, [])
    assert int(answer.headers["retry-after"]) > 0
    assert (await visitor.get(f"/console/enter?code={CODE}")).status == 429


async def test_signing_out_ends_the_session(visitor: Visitor) -> None:
    stolen = {"cookie": "; ".join(f"{each.key}={each.value}" for each in visitor.http.cookie_jar)}
    answer = await visitor.send("/console/sign-out")
    assert (answer.status, answer.headers["location"]) == (303, "/console/sign-in")
    assert "Max-Age=0" in answer.cookies[0]
    assert (await visitor.get("/console")).status == 303
    async with visiting(visitor.url) as thief:
        assert (await thief.get("/console", **stolen)).status == 303


async def test_session_of_a_key_ends_when_it_is_revoked(tmp_path: Path) -> None:
    store = open_store(Settings(key_database=str(tmp_path / "keys.db")))
    record, key = store.create(name="admin", scopes=["admin"])
    _, weak = store.create(name="weak", scopes=["inference"])
    async with running_console(tmp_path) as (_, visitor):
        assert (await visitor.sign_in(weak)).status == 401
        assert (await visitor.sign_in(key)).status == 200
        assert (await visitor.get("/console")).status == 200
        await asyncio.to_thread(store.revoke, record.id)
        async with asyncio.timeout(120):
            while (await visitor.get("/console")).status == 200:
                pass


async def test_sessions_hold_at_every_gateway_of_a_database_and_admin_key(tmp_path: Path) -> None:
    async with (
        running_console(tmp_path) as (_, one),
        running_console(tmp_path) as (_, two),
        running_console(tmp_path, admin_key="another-admin-key") as (_, other),
    ):
        await one.sign_in()
        cookie = {"cookie": "; ".join(f"{each.key}={each.value}" for each in one.http.cookie_jar)}
        assert (await two.get("/console", **cookie)).status == 200
        assert (
            await two.send(
                "/console/keys", {"name": "a", "scopes": "inference", "token": one.token}, **cookie
            )
        ).status == 200
        assert (await other.get("/console", **cookie)).status == 303


async def test_link_signs_in_once(tmp_path: Path) -> None:
    async with running_console(tmp_path, console_code=CODE) as (_, visitor):
        assert (await visitor.get(f"/console/enter?code={CODE[:-1]}x")).status == 401
        # A preview of the link does not use it up.
        assert (await visitor.request("HEAD", f"/console/enter?code={CODE}")).cookies == []
        answer = await visitor.get(f"/console/enter?code={CODE}")
        assert (answer.status, len(answer.cookies)) == (200, 1)
        assert (await visitor.get("/console")).status == 200
        async with visiting(visitor.url) as other:
            answer = await other.get(f"/console/enter?code={CODE}")
            assert (answer.status, answer.cookies) == (401, [])


async def test_database_alone_does_not_give_a_session_of_the_link(tmp_path: Path) -> None:
    async with (
        running_console(tmp_path, console_code=CODE, admin_key=None) as (_, one),
        running_console(tmp_path, console_code="d" * 40, admin_key=None) as (_, two),
        running_console(tmp_path, admin_key=None) as (_, other),
    ):
        await one.get(f"/console/enter?code={CODE}")
        assert (await one.get("/console")).status == 200
        cookie = {"cookie": "; ".join(f"{each.key}={each.value}" for each in one.http.cookie_jar)}
        assert (await two.get("/console", **cookie)).status == 303
        assert (await other.get("/console", **cookie)).status == 303


async def test_without_a_link_no_code_signs_in(console: tuple[RunningGateway, Visitor]) -> None:
    _, visitor = console
    for code in ("", CODE):
        assert (await visitor.get(f"/console/enter?code={code}")).status == 401


async def test_log_names_who_signed_in_and_no_key(
    console: tuple[RunningGateway, Visitor], caplog: pytest.LogCaptureFixture
) -> None:
    _, visitor = console
    caplog.set_level(logging.INFO, "serval")
    await visitor.sign_in("wrong-canary")
    await visitor.sign_in()
    (wrong,) = [line for line in request_lines(caplog) if line["error_code"]]
    assert (wrong["route"], wrong["error_code"]) == ("/console/sign-in", "invalid_api_key")
    text = caplog.text + repr([vars(record) for record in caplog.records])
    assert "'who': 'admin-key'" in text
    assert ADMIN_KEY not in text
    assert "wrong-canary" not in text


async def test_console_is_left_out_where_it_is_switched_off(tmp_path: Path) -> None:
    async with running_console(tmp_path, console=False) as (_, visitor):
        assert (await visitor.get("/console/sign-in")).status == 401
