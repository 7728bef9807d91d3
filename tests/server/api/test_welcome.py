"""`GET /` for browsers and programs."""

import pytest

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def page(gateway: RunningGateway, **headers: str) -> str:
    async with gateway.http.get(f"{gateway.url}/", headers={**BROWSER, **headers}) as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        return await response.text()


async def test_welcome_page_shows_how_to_connect_and_no_secret(gateway: RunningGateway) -> None:
    text = await page(gateway)
    assert f"OPENAI_BASE_URL={gateway.url}/v1" in text
    assert f"ANTHROPIC_BASE_URL={gateway.url}\n" in text
    assert f"serval agent codex --url {gateway.url}/v1" in text
    assert "It takes requests." in text
    assert API_KEY not in text
    assert MODEL not in text


async def test_welcome_page_says_that_the_engine_is_not_ready(gateway: RunningGateway) -> None:
    gateway.engine.ready = False
    assert "The engine is not ready yet." in await page(gateway)


async def test_welcome_page_names_https_behind_a_proxy_that_ends_tls(gateway: RunningGateway) -> None:
    text = await page(gateway, **{"x-forwarded-proto": "https", "host": "llm.example"})
    assert "OPENAI_BASE_URL=https://llm.example/v1" in text


async def test_welcome_page_cannot_be_injected(gateway: RunningGateway) -> None:
    """The host and the forwarded protocol come from the client."""
    text = await page(gateway, **{"host": "a&amp;b'c", "x-forwarded-proto": "<script>"})
    assert "<script>" not in text
    assert "a&amp;amp;b&#39;c" in text


@pytest.mark.parametrize("ready", [True, False])
async def test_welcome_gives_a_program_json(gateway: RunningGateway, ready: bool) -> None:
    gateway.engine.ready = ready
    response = await gateway.get("/", key=None)
    assert response.status == 200
    body = await response.json()
    assert (body["server"], body["ready"]) == ("serval", ready)
    assert body["endpoints"]["chat"] == "/v1/chat/completions"
    assert {"/v1/responses", "/v1/messages"} <= set(body["endpoints"].values())
