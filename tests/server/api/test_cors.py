"""Pages of other origins: closed by default, and open to those that are listed, errors included.

These are the requests that a browser sends; no browser is installed for the tests.
"""

import json
from typing import Any

import aiohttp
import pytest

from serval.api.responses import ANSWER_HEADERS, COMMON_HEADERS
from serval.errors import SettingsError
from serval.settings import load_settings
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"
ORIGIN = "http://localhost:5173"
OTHER = "https://evil.example"
ALLOW = "access-control-allow-origin"


async def preflight(gateway: RunningGateway, origin: str, path: str = PATH, **more: str) -> Any:
    """Ask as a browser does before a page's request: without a key."""
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
        **more,
    }
    async with gateway.http.options(gateway.url + path, headers=headers) as response:
        await response.read()
        return response


async def test_response_has_no_cors_headers_by_default(gateway: RunningGateway) -> None:
    for response in (await preflight(gateway, ORIGIN), await gateway.post(CHAT, headers={"origin": ORIGIN})):
        assert not [name for name in response.headers if name.lower().startswith("access-control")]
    assert (await preflight(gateway, ORIGIN)).status == 401


@pytest.mark.parametrize("path", [PATH, "/v1/completions", "/v1/models", "/tokenize", "/v1/nothing"])
async def test_preflight_is_answered_without_a_key(path: str) -> None:
    async with running_gateway(cors_origins=f"https://chat.example {ORIGIN}") as gateway:
        for origin in (ORIGIN, "https://chat.example"):
            response = await preflight(gateway, origin, path)
            assert response.status == 200
            assert response.headers[ALLOW] == origin
            assert "POST" in response.headers["access-control-allow-methods"]
            allowed = response.headers["access-control-allow-headers"]
            assert allowed == "authorization,content-type,x-stainless-lang"
            assert "Origin" in response.headers["vary"]
            assert int(response.headers["access-control-max-age"]) > 0
            assert "access-control-allow-credentials" not in response.headers
        private = await preflight(gateway, ORIGIN, path, **{"access-control-request-private-network": "true"})
        assert private.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    "origin",
    [
        OTHER,
        "null",
        ORIGIN + ".evil.example",
        ORIGIN.upper(),
        "http://localhost",
        "https://localhost:5173",
        "*",
    ],
)
async def test_other_origin_gets_no_permission(origin: str) -> None:
    async with running_gateway(cors_origins=ORIGIN) as gateway:
        refused = await preflight(gateway, origin)
        answered = await gateway.post(CHAT, headers={"origin": origin})
        assert (refused.status, answered.status) == (400, 200)
        for response in (refused, answered):
            assert ALLOW not in response.headers
            assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_may_be_read_by_a_page_of_a_listed_origin(stream: bool) -> None:
    async with running_gateway(cors_origins=ORIGIN, requests_per_minute=9) as gateway:
        response = await gateway.post({**CHAT, "stream": stream}, headers={"origin": ORIGIN})
        assert response.status == 200
        assert response.headers[ALLOW] == ORIGIN
        assert response.headers["vary"] == "Origin"
        assert "world" in await response.text()
        exposed = {name.strip() for name in response.headers["access-control-expose-headers"].split(",")}
        assert exposed >= {*COMMON_HEADERS, *ANSWER_HEADERS, "retry-after"}
        own = {name for name in map(str.lower, response.headers) if name.startswith("x-")}
        assert own - {"x-accel-buffering"} <= exposed
        # Without an origin it is no page; a cache must not give this answer to one.
        assert (await gateway.post(CHAT)).headers["vary"] == "Origin"


async def test_errors_may_be_read_by_a_page_of_a_listed_origin() -> None:
    async with running_gateway(cors_origins=ORIGIN, requests_per_minute=3, max_body_bytes=2048) as gateway:
        page = {"origin": ORIGIN}
        gateway.engine.will_say(fault="http_error", status=500)
        gateway.engine.will_say(fault="http_error", status=503)
        seen = [
            await gateway.post(CHAT, headers={**page, "authorization": "Bearer sk-wrong"}),
            await gateway.post(CHAT, path="/v1/nothing", headers=page),
            await gateway.post(b"{", headers=page),
            await gateway.post(b" " * 4096, headers=page),
            await gateway.post(CHAT, headers={**page, "content-encoding": "br"}),
            *[await gateway.post(CHAT, headers=page) for _ in range(7)],
        ]
        statuses = [response.status for response in seen]
        assert statuses[:5] == [401, 404, 400, 413, 415]
        assert {500, 503, 429} <= set(statuses[5:])
        assert {response.headers[ALLOW] for response in seen} == {ORIGIN}


async def test_error_within_a_stream_may_be_read() -> None:
    async with running_gateway(cors_origins=ORIGIN) as gateway:
        gateway.engine.will_say("partial", fault="error_event")
        response = await gateway.post({**CHAT, "stream": True}, headers={"origin": ORIGIN})
        assert response.headers[ALLOW] == ORIGIN
        last = (await response.text()).rstrip().rpartition("data: ")[2]
        assert json.loads(last)["error"]["code"] == "engine_failure"


async def test_all_origins_may_be_allowed() -> None:
    async with running_gateway(cors_origins="*") as gateway:
        for response in (
            await preflight(gateway, OTHER),
            await gateway.post(CHAT, headers={"origin": "null"}),
        ):
            assert response.status == 200
            assert response.headers[ALLOW] == "*"


async def test_admin_api_stays_closed(tmp_path: Any) -> None:
    async with running_gateway(
        cors_origins=ORIGIN, key_database=str(tmp_path / "keys.db"), admin_port=0, admin_key="sk-admin"
    ) as gateway:
        headers = {"origin": ORIGIN, "access-control-request-method": "POST"}
        async with aiohttp.ClientSession() as client:
            for ask, sent in (
                (client.options, headers),
                (client.get, {**headers, "authorization": "Bearer sk-admin"}),
            ):
                async with ask(f"{gateway.admin_url}/admin/keys", headers=sent) as response:
                    assert ALLOW not in response.headers


@pytest.mark.parametrize(
    "origins",
    [
        "https://chat.example/",
        "https://chat.example/app",
        "chat.example",
        "https://*.example",
        "https://Chat.example",
        "null",
        "https://a.example,https://b.example",
        "https://a.example https://b.example:port",
    ],
)
def test_settings_refuse_what_no_browser_sends_as_origin(origins: str) -> None:
    with pytest.raises(SettingsError, match="an origin has the form https://host"):
        load_settings(cors_origins=origins)


@pytest.mark.parametrize(
    "origins",
    [
        "",
        " ",
        "*",
        ORIGIN,
        "https://[::1]:8443",
        "http://my_host",
        "capacitor://localhost",
        f"{ORIGIN}  {OTHER}",
    ],
)
def test_settings_take_origins_as_browsers_send_them(origins: str) -> None:
    assert load_settings(cors_origins=origins).cors_origins == origins


def test_settings_error_does_not_repeat_what_was_given() -> None:
    """A key in the wrong setting is not repeated by the error."""
    with pytest.raises(SettingsError) as caught:
        load_settings(cors_origins=API_KEY)
    assert API_KEY not in str(caught.value)
