"""Unknown request fields: ignored by default, refused with SERVAL_STRICT_FIELDS."""

import pytest

from serval_testkit.gateway import MODEL, running_gateway

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
}


@pytest.mark.parametrize("path", BODIES)
async def test_unknown_field_is_refused_in_strict_mode_only(path: str) -> None:
    body = {"model": MODEL, **BODIES[path]}
    for strict, status in ((False, 200), (True, 400)):
        async with running_gateway(strict_fields=strict) as gateway:
            response = await gateway.post({**body, "temprature": 0}, path=path)
            assert response.status == status
            if strict:
                error = (await response.json())["error"]
                assert (error["param"], error["code"]) == ("temprature", "unknown_parameter")
            assert (await gateway.post(body, path=path)).status == 200


async def test_strict_mode_accepts_the_fields_of_openai() -> None:
    fields = {
        "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h",
        "reasoning_effort": "low", "verbosity": "low", "service_tier": "auto", "store": False,
        "metadata": {"a": "b"}, "modalities": ["text"], "parallel_tool_calls": True,
    }  # fmt: skip
    async with running_gateway(strict_fields=True) as gateway:
        body = {"model": MODEL, **BODIES["/v1/chat/completions"]}
        response = await gateway.post({**body, **fields})
        assert response.status == 200
        # The response does not claim features that the server lacks.
        assert not {"store", "metadata"} & set(await response.json())
        assert (await gateway.post(body)).status == 200
        known, plain = gateway.engine.requests
        assert {**known, "rid": ""} == {**plain, "rid": ""}
        streamed = await gateway.post(
            {**body, "stream": True, "stream_options": {"include_obfuscation": True}}
        )
        assert streamed.status == 200
        assert "obfuscation" not in await streamed.text()
