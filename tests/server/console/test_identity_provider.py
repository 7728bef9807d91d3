"""Signing in at an identity provider: authorization code with PKCE, state and nonce."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import pytest_asyncio

from serval.errors import SettingsError
from serval_testkit.console import Answer, Visitor, running_console, visiting
from serval_testkit.issuer import rsa_key, token
from serval_testkit.sign_in_provider import CLIENT_SECRET, SignInProvider

CALLBACK = "/console/sign-in/callback"


@pytest_asyncio.fixture
async def parts(tmp_path: Path) -> AsyncIterator[tuple[SignInProvider, Visitor]]:
    """A provider, and a visitor of a console that trusts it."""
    async with (
        SignInProvider().running() as provider,
        running_console(tmp_path, **provider.settings()) as (_, visitor),
    ):
        yield provider, visitor


async def started(provider: SignInProvider, visitor: Visitor) -> dict[str, str]:
    """Begin to sign in; return what the provider sends back."""
    answer = await visitor.get("/console/sign-in/provider")
    assert answer.status == 303
    return provider.authorize(answer.headers["location"])


async def finished(visitor: Visitor, query: dict[str, str]) -> Answer:
    return await visitor.get(f"{CALLBACK}?{urlencode(query)}")


async def test_person_with_the_scope_signs_in(parts: tuple[SignInProvider, Visitor]) -> None:
    provider, visitor = parts
    assert 'href="/console/sign-in/provider"' in (await visitor.get("/console/sign-in")).text
    start = await visitor.get("/console/sign-in/provider")
    (cookie,) = start.cookies
    # The provider's redirect comes from another site and must bring it back.
    assert {"HttpOnly", "SameSite=lax", "Max-Age=600"} <= set(cookie.split("; "))
    asked = parse_qs(urlsplit(start.headers["location"]).query)
    assert asked["redirect_uri"] == [f"{visitor.url}{CALLBACK}"]
    assert CLIENT_SECRET not in start.headers["location"] + cookie
    answer = await finished(visitor, provider.authorize(start.headers["location"]))
    assert answer.status == 200
    assert any("SameSite=strict" in each for each in answer.cookies)
    assert "Signed in by oidc:alice" in (await visitor.get("/console")).text


async def test_id_token_of_another_sign_in_is_refused(parts: tuple[SignInProvider, Visitor]) -> None:
    provider, visitor = parts
    wrong: tuple[dict[str, Any], ...] = (
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "serval"},
        {"iss": "https://evil.example"},
        {"expires_in_s": -300},
        {"key": rsa_key("other")},
        {"algorithm": "none", "key": ""},
        {"sub": None},
    )
    for provider.claims in wrong:
        answer = await finished(visitor, await started(provider, visitor))
        assert answer.status == 401, provider.claims
        assert (await visitor.get("/console")).status == 303


async def test_person_without_the_scope_is_refused(parts: tuple[SignInProvider, Visitor]) -> None:
    provider, visitor = parts
    for scope in ("openid inference", "administrator", None, 5, ["inference"]):
        provider.claims = {"scope": scope}
        answer = await finished(visitor, await started(provider, visitor))
        assert answer.status == 403, scope
        assert "the scope admin is missing" in answer.text
        assert (await visitor.get("/console")).status == 303


async def test_forged_answer_of_the_provider_is_refused(parts: tuple[SignInProvider, Visitor]) -> None:
    provider, visitor = parts
    for name, value in (
        ("state", "another"), ("state", ""), ("code", "another"), ("code", ""), ("iss", "https://evil.example")
    ):  # fmt: skip
        answer = await finished(visitor, {**await started(provider, visitor), name: value})
        assert answer.status == 401, name
        assert (await visitor.get("/console")).status == 303


async def test_answer_is_accepted_once_in_the_browser_that_began(
    parts: tuple[SignInProvider, Visitor],
) -> None:
    provider, visitor = parts
    query = await started(provider, visitor)
    async with visiting(visitor.url) as victim:
        assert (await finished(victim, query)).status == 401
        # Not even with a sign-in of their own that has begun.
        await started(provider, victim)
        assert (await finished(victim, query)).status == 401
    assert (await finished(visitor, query)).status == 200
    assert (await finished(visitor, query)).status == 401


async def test_code_of_another_verifier_is_refused(parts: tuple[SignInProvider, Visitor]) -> None:
    provider, visitor = parts
    stolen = await started(provider, visitor)
    async with visiting(visitor.url) as thief:
        own = await started(provider, thief)
        assert (await finished(thief, {**own, "code": stolen["code"]})).status == 401


async def test_configuration_that_is_not_safe_is_refused(parts: tuple[SignInProvider, Visitor]) -> None:
    provider, visitor = parts
    unsafe: tuple[dict[str, Any], ...] = (
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": None},
    )
    for provider.document in unsafe:
        answer = await visitor.get("/console/sign-in/provider")
        assert (answer.status, answer.cookies) == (503, []), provider.document


async def test_token_of_the_provider_is_no_key_of_the_console(
    parts: tuple[SignInProvider, Visitor],
) -> None:
    provider, visitor = parts
    bearer = token(iss=provider.url, aud="serval", scope="admin")
    assert (await visitor.sign_in(bearer)).status == 401


async def test_without_a_client_id_nobody_is_led_to_a_provider(tmp_path: Path) -> None:
    async with running_console(tmp_path) as (_, visitor):
        assert "identity provider" not in (await visitor.get("/console/sign-in")).text
        for path in ("/console/sign-in/provider", CALLBACK):
            assert (await visitor.get(path)).headers["location"] == "/console/sign-in"


async def test_client_id_without_an_issuer_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SERVAL_OIDC_ISSUER"):
        async with running_console(tmp_path, console_oidc_client_id="a"):
            pass
