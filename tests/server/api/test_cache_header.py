"""The header that says how much of a prompt the prefix cache held."""

from typing import Any

import pytest

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": [1, 2, 3, 4]},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_answer_says_how_much_of_the_prompt_was_found(path: str, stream: bool) -> None:
    # Long enough for any machine: without a token by then, a stream begins without the header.
    async with running_gateway(first_byte_s=60) as gateway:
        for found in (0, 3):
            gateway.engine.will_say("Hello", " there", cached_tokens=found)
            response = await gateway.post({"model": MODEL, "stream": stream, **BODIES[path]}, path=path)
            prompt = len(gateway.engine.requests[-1]["input_ids"])
            assert response.headers["x-serval-cache"] == f"{found}/{prompt}"


async def test_failed_request_has_no_cache_header(gateway: RunningGateway) -> None:
    gateway.engine.will_say(fault="http_error", status=500)
    response = await gateway.post({"model": MODEL, **BODIES["/v1/chat/completions"]})
    assert response.status == 500
    assert "x-serval-cache" not in response.headers


async def test_stream_that_begins_before_the_first_token_has_no_cache_header() -> None:
    async with running_gateway(first_byte_s=0) as gateway:
        gateway.engine.will_say(fault="silent")
        async with gateway.http.post(
            gateway.url + "/v1/chat/completions",
            headers={"authorization": f"Bearer {API_KEY}"},
            json={"model": MODEL, "stream": True, **BODIES["/v1/chat/completions"]},
        ) as response:
            assert (await response.content.readline()).startswith(b": ping")
            assert "x-serval-cache" not in response.headers
