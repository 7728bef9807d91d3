"""Bearer tokens of an identity provider at the running gateway."""

import openai
import pytest
from openai import AsyncOpenAI

from serval_testkit.gateway import API_KEY, MODEL, running_gateway
from serval_testkit.issuer import Issuer, jwk, rsa_key, token
from serval_testkit.request_log import request_lines

HI = [{"role": "user", "content": "Hi"}]


async def test_tokens_are_accepted_beside_keys_and_refused_with_a_reason() -> None:
    async with (
        Issuer().running() as issuer,
        running_gateway(**issuer.settings(oidc_models_claim="models")) as gateway,
    ):

        async def said(bearer: str) -> str | None:
            async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=bearer, max_retries=0) as client:
                answer = await client.chat.completions.create(model=MODEL, messages=HI)  # type: ignore[arg-type]
                return answer.choices[0].message.content

        assert await said(API_KEY) == "Hello world"
        assert await said(token(models=[MODEL])) == "Hello world"
        with pytest.raises(openai.PermissionDeniedError, match="may not use the model"):
            await said(token(models=["other"]))
        with pytest.raises(openai.PermissionDeniedError, match="scope 'inference'"):
            await said(token(models=[MODEL], scope="openid"))
        with pytest.raises(openai.AuthenticationError, match="has expired") as refused:
            await said(token(models=[MODEL], expires_in_s=-300))
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
        assert refused.value.code == "invalid_api_key"


async def test_gateway_starts_while_the_issuer_is_away() -> None:
    async with Issuer().running() as issuer:
        issuer.status = 503
        async with running_gateway(**issuer.settings()) as gateway:
            first = await gateway.get("/v1/models", key=token())
            assert first.status == 503
            assert first.headers["retry-after"] == "2"
            assert (await gateway.get("/v1/models")).status == 200


async def test_log_names_the_caller_and_never_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with Issuer().running() as issuer, running_gateway(**issuer.settings()) as gateway:
        good = token(sub="alice@example")
        assert (await gateway.get("/v1/models", key=good)).status == 200
        issuer.keys = [jwk("k2", rsa_key("k2"))]
        assert (await gateway.get("/v1/models", key=good[:-4] + "AAAA")).status == 401
    lines = request_lines(caplog)
    assert [line["key_id"] for line in lines] == ["oidc:alice@example", None]
    assert good[:40] not in caplog.text + repr(lines)
