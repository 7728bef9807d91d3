"""Invalid requests: status, error object and field at fault; none reaches the engine."""

import json
from typing import Any

import openai
import pytest

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

HI: list[Any] = [{"role": "user", "content": "Hi"}]
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def call(arguments: Any = "{}", call_id: str = "c1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def result(call_id: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "r"}


async def assert_error(
    response: Any, *, status: int, param: str | None, code: str | None = None
) -> dict[str, Any]:
    assert response.status == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = await response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    return error


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": HI, **fields}


def json_schema(schema: Any, *, strict: bool = False) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": strict}}


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "model missing": ({"messages": HI}, "model"),
    "model of wrong type": ({"model": 3, "messages": HI}, "model"),
    "messages missing": ({"model": MODEL}, "messages"),
    "messages empty": (chat(messages=[]), "messages"),
    "messages null": (chat(messages=None), "messages"),
    "messages an object": (chat(messages={"role": "user"}), "messages"),
    "a message that is a string": (chat(messages=["Hi"]), "messages[0]"),
    "role missing": (chat(messages=[{"content": "x"}]), "messages[0].role"),
    "role unknown": (chat(messages=[*HI, {"role": "wizard", "content": "x"}]), "messages[1].role"),
    "role function": (chat(messages=[*HI, {"role": "function", "content": "x"}]), "messages[1].name"),
    "content a number": (chat(messages=[{"role": "user", "content": 1}]), "messages[0].content"),
    "content missing": (chat(messages=[{"role": "user"}]), "messages[0].content"),
    "part without type": (
        chat(messages=[{"role": "user", "content": [{"text": "x"}]}]),
        "messages[0].content[0].type",
    ),
    "part of an image": (
        chat(
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]
        ),
        "messages[0].content[0].type",
    ),
    "part without text": (
        chat(messages=[{"role": "user", "content": [{"type": "text"}]}]),
        "messages[0].content[0].text",
    ),
    "arguments a list": (
        chat(messages=[*HI, {"role": "assistant", "tool_calls": [call([1])]}, result()]),
        "messages[1].tool_calls[0].function.arguments",
    ),
    "call without id": (
        chat(
            messages=[
                *HI,
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]},
            ]
        ),
        "messages[1].tool_calls[0].id",
    ),
    "tool result first": (chat(messages=[result()]), "messages[0].tool_call_id"),
    "tool result without id": (
        chat(messages=[*HI, {"role": "assistant", "tool_calls": [call()]}, {"role": "tool", "content": "r"}]),
        "messages[2].tool_call_id",
    ),
    "tool result for no call": (
        chat(messages=[*HI, {"role": "assistant", "tool_calls": [call()]}, result("other")]),
        "messages[2].tool_call_id",
    ),
    "call without result": (
        chat(messages=[*HI, {"role": "assistant", "tool_calls": [call()]}, *HI]),
        "messages",
    ),
    "tools an object": (chat(tools={}), "tools"),
    "tool in flat form": (chat(tools=[{"type": "function", "name": "f"}]), "tools[0].function"),
    "tool of another type": (chat(tools=[{"type": "custom", "custom": {"name": "f"}}]), "tools[0].type"),
    "tool without name": (chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
    "tool name with a space": (
        chat(tools=[{"type": "function", "function": {"name": "a b"}}]),
        "tools[0].function.name",
    ),
    "tool name too long": (
        chat(tools=[{"type": "function", "function": {"name": "a" * 257}}]),
        "tools[0].function.name",
    ),
    "tool name of points": (
        chat(tools=[{"type": "function", "function": {"name": "..."}}]),
        "tools[0].function.name",
    ),
    "tool name of other letters": (
        chat(tools=[{"type": "function", "function": {"name": "wetter_für"}}]),
        "tools[0].function.name",
    ),
    "tool name ending in a line break": (
        chat(tools=[{"type": "function", "function": {"name": "f\n"}}]),
        "tools[0].function.name",
    ),
    "tool declared twice": (chat(tools=[TOOL, TOOL]), "tools[1].function.name"),
    "parameters a list": (
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": []}}]),
        "tools[0].function.parameters",
    ),
    "too many tools": (
        chat(tools=[{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]),
        "tools",
    ),
    "tool choice unknown": (chat(tools=[TOOL], tool_choice="maybe"), "tool_choice"),
    "tool choice without tools": (chat(tool_choice="required"), "tool_choice"),
    "tool choice any without tools": (chat(tool_choice="any"), "tool_choice"),
    "thinking a word": (chat(thinking="on"), "thinking"),
    "enable_thinking a word": (chat(enable_thinking="on"), "enable_thinking"),
    "tool choice names no tool": (
        chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
        "tool_choice.function.name",
    ),
    "temperature too high": (chat(temperature=2.1), "temperature"),
    "temperature negative": (chat(temperature=-0.1), "temperature"),
    "temperature a string": (chat(temperature="hot"), "temperature"),
    "temperature a bool": (chat(temperature=True), "temperature"),
    "top_p too high": (chat(top_p=1.01), "top_p"),
    "n zero": (chat(n=0), "n"),
    "n over the server's limit": (chat(n=17), "n"),
    "n a float": (chat(n=1.5), "n"),
    "max_tokens zero": (chat(max_tokens=0), "max_tokens"),
    "max_completion_tokens negative": (chat(max_completion_tokens=-1), "max_completion_tokens"),
    "max_tokens huge": (chat(max_tokens=10**30), "max_tokens"),
    "presence_penalty": (chat(presence_penalty=2.5), "presence_penalty"),
    "frequency_penalty": (chat(frequency_penalty=-3), "frequency_penalty"),
    "seed too large": (chat(seed=2**63), "seed"),
    "stop of five": (chat(stop=list("abcde")), "stop"),
    "stop empty": (chat(stop=""), "stop"),
    "stop with a number": (chat(stop=["a", 1]), "stop[1]"),
    "logit_bias too large": (chat(logit_bias={"1": 101}), "logit_bias[...]"),
    "logit_bias of a word": (chat(logit_bias={"hello": 1}), "logit_bias"),
    "top_logprobs without logprobs": (chat(top_logprobs=1), "top_logprobs"),
    "top_logprobs too many": (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    "stream a string": (chat(stream="yes"), "stream"),
    "stream_options without stream": (chat(stream_options={"include_usage": True}), "stream_options"),
    "response_format unknown": (chat(response_format={"type": "yaml"}), "response_format.type"),
    "response_format empty": (chat(response_format={"type": "json_schema"}), "response_format.json_schema"),
    "response_format unnamed": (
        chat(response_format={"type": "json_schema", "json_schema": {"schema": {}}}),
        "response_format.json_schema.name",
    ),
    "response_format with an endless name": (
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x" * 257, "schema": {}}}),
        "response_format.json_schema.name",
    ),
    "response_format that leads nowhere": (
        chat(response_format=json_schema({"$ref": "#/nowhere"}, strict=True)),
        "response_format",
    ),
    "functions beside tools": (chat(functions=[{"name": "f"}], tools=[TOOL]), "functions"),
    "functions twice the same": (chat(functions=[{"name": "f"}, {"name": "f"}]), "functions[1].name"),
    "function_call of nothing": (
        chat(functions=[{"name": "f"}], function_call={"name": "g"}),
        "function_call.name",
    ),
    "function_call required": (chat(functions=[{"name": "f"}], function_call="required"), "function_call"),
    "function_call without functions": (chat(function_call={"name": "f"}), "function_call"),
    "function result of no call": (
        chat(messages=[*HI, {"role": "function", "name": "f", "content": "x"}]),
        "messages[1].name",
    ),
    "modalities": (chat(modalities=["text", "audio"]), "modalities"),
    "safety_identifier too long": (chat(safety_identifier="x" * 65), "safety_identifier"),
    "stop too long": (chat(stop="x" * 1025), "stop"),
    "logit_bias of 5000 digits": (chat(logit_bias={"1" * 5000: 1}), "logit_bias"),
    "metadata too long": (chat(metadata={"k": "v" * 513}), "metadata[...]"),
}


@pytest.mark.parametrize("case", FIELDS)
async def test_invalid_field_is_named(gateway: RunningGateway, case: str) -> None:
    body, param = FIELDS[case]
    await assert_error(await gateway.post(body), status=400, param=param)
    assert gateway.engine.requests == []
    assert (await gateway.post(chat())).status == 200


BODIES: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"model": "x", "messages": [',
    "two documents": json.dumps(chat()).encode() * 2,
    "not UTF-8": b'{"model": "\xff"}',
    "UTF-16": json.dumps(chat()).encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(chat()).encode(),
    "lone surrogate": b'{"model": "\\ud800", "messages": []}',
    "NaN": b'{"model": "x", "messages": [], "temperature": NaN}',
    "100 000 open brackets": b'{"model": "x", "unknown": ' + b"[" * 100_000,
    "nested objects": b'{"model": "x", "messages": [], "metadata": ' + b'{"a":' * 100_000,
}


@pytest.mark.parametrize("case", BODIES)
async def test_body_that_is_not_json_is_a_400(gateway: RunningGateway, case: str) -> None:
    response = await gateway.post(BODIES[case])
    assert response.status == 400
    error = (await response.json())["error"]
    assert error["type"] == "invalid_request_error"
    assert (await gateway.post(chat())).status == 200


async def test_number_too_large_for_a_float_is_a_400(gateway: RunningGateway) -> None:
    body = b'{"model": "x", "messages": [], "temperature": 1e400}'
    await assert_error(await gateway.post(body), status=400, param="temperature")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"3"])
async def test_body_that_is_no_object_is_a_400(gateway: RunningGateway, body: bytes) -> None:
    await assert_error(await gateway.post(body), status=400, param=None, code="invalid_type")


async def test_body_over_the_limit_is_a_413() -> None:
    async with running_gateway(max_body_bytes=2048) as gateway:
        body = json.dumps(chat(user="x" * 4096)).encode()

        async def chunked() -> Any:
            for start in range(0, len(body), 512):
                yield body[start : start + 512]

        headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
        for data in (body, chunked()):
            async with gateway.http.post(
                f"{gateway.url}/v1/chat/completions", data=data, headers=headers
            ) as response:
                await assert_error(response, status=413, param=None)
        assert (await gateway.post(chat())).status == 200


async def test_other_content_type_is_a_400(gateway: RunningGateway) -> None:
    response = await gateway.post(json.dumps(chat()).encode(), headers={"content-type": "text/plain"})
    await assert_error(response, status=400, param=None, code="invalid_content_type")
    charset = {"content-type": "application/json; charset=utf-8"}
    assert (await gateway.post(json.dumps(chat()).encode(), headers=charset)).status == 200


async def test_null_field_is_the_same_as_an_absent_one(gateway: RunningGateway) -> None:
    optional = [
        "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options", "max_tokens",
        "max_completion_tokens", "n", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed",
        "stop", "logit_bias", "logprobs", "top_logprobs", "response_format", "user", "metadata",
    ]  # fmt: skip
    assert (await gateway.post(chat(**dict.fromkeys(optional)))).status == 200
    assert (await gateway.post(chat())).status == 200
    first, second = gateway.engine.requests
    assert first["sampling_params"] == second["sampling_params"]
    assert first["input_ids"] == second["input_ids"]


async def test_unknown_fields_are_ignored_and_do_not_reach_the_engine(
    gateway: RunningGateway,
) -> None:
    extra = {
        "rid": "x",
        "priority": 9,
        "cache_salt": "another key's",
        "data_parallel_rank": 1,
        "store": True,
    }
    assert (await gateway.post(chat(**extra))).status == 200
    (sent,) = gateway.engine.requests
    assert set(sent) == {"rid", "input_ids", "sampling_params", "stream", "cache_salt"}
    assert sent["rid"] != "x"
    assert sent["cache_salt"] != "another key's"


async def test_openai_client_raises_its_own_error_classes(gateway: RunningGateway) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await gateway.openai.chat.completions.create(model=MODEL, messages=HI, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        await gateway.openai.chat.completions.create(model="gpt-4", messages=HI)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError) as denied:
        await gateway.openai.with_options(api_key="sk-wrong").chat.completions.create(
            model=MODEL, messages=HI
        )
    assert denied.value.code == "invalid_api_key"
