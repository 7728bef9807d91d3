"""`/tokenize` and `/detokenize`: the token ids that the engine is sent, and their text."""

from typing import Any

import pytest

from serval_testkit.gateway import MODEL, RunningGateway, running_gateway

HI: list[Any] = [{"role": "user", "content": "Hi <longcat_assistant> there"}]
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


async def tokens_of(gateway: RunningGateway, **fields: Any) -> list[int]:
    response = await gateway.post({"model": MODEL, **fields}, path="/tokenize")
    assert response.status == 200
    answer = await response.json()
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == gateway.engine.context_length
    tokens: list[int] = answer["tokens"]
    return tokens


async def text_of(gateway: RunningGateway, tokens: list[int]) -> str:
    response = await gateway.post({"model": MODEL, "tokens": tokens}, path="/detokenize")
    assert response.status == 200
    text: str = (await response.json())["prompt"]
    return text


@pytest.mark.parametrize("fields", [{}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "none"}])
async def test_tokenize_returns_the_ids_that_chat_sends(
    gateway: RunningGateway, fields: dict[str, Any]
) -> None:
    tokens = await tokens_of(gateway, messages=HI, **fields)
    await gateway.post({"model": MODEL, "messages": HI, **fields})
    assert gateway.engine.requests[0]["input_ids"] == tokens


@pytest.mark.parametrize("text", ["Hello, world", " 北京 🐈‍⬛\n\ttab", "<longcat_user></longcat_s>", ""])
async def test_detokenize_reverses_tokenize(gateway: RunningGateway, text: str) -> None:
    assert await text_of(gateway, await tokens_of(gateway, prompt=text)) == text


async def test_detokenize_names_control_tokens(
    gateway: RunningGateway,
) -> None:
    text = await text_of(gateway, await tokens_of(gateway, messages=HI))
    assert text.endswith("Hi <longcat_assistant> there<longcat_assistant>")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"model": MODEL}, "prompt"),
        ("/tokenize", {"model": MODEL, "prompt": "x", "messages": HI}, "prompt"),
        ("/tokenize", {"model": MODEL, "messages": []}, "messages"),
        ("/tokenize", {"model": MODEL, "messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ("/tokenize", {"model": MODEL, "prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "x"}, "model"),
        ("/detokenize", {"model": MODEL}, "tokens"),
        ("/detokenize", {"model": MODEL, "tokens": [-1]}, "tokens"),
        ("/detokenize", {"model": MODEL, "tokens": [1 << 40]}, "tokens"),
        ("/detokenize", {"model": MODEL, "tokens": ["x"]}, "tokens[0]"),
    ],
)
async def test_invalid_field_is_named(
    gateway: RunningGateway, path: str, body: dict[str, Any], param: str
) -> None:
    response = await gateway.post(body, path=path)
    assert response.status == 400
    assert (await response.json())["error"]["param"] == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_unknown_model_is_a_404(gateway: RunningGateway, path: str) -> None:
    response = await gateway.post({"model": "x", "prompt": "x", "tokens": []}, path=path)
    assert response.status == 404


async def test_large_inputs_give_the_same_in_a_thread() -> None:
    answers = []
    for limit in (0, 1 << 30):
        async with running_gateway(inline_render_bytes=limit) as gateway:
            tokens = await tokens_of(gateway, prompt="word " * 200)
            answers.append((tokens, await text_of(gateway, tokens)))
    assert answers[0] == answers[1]
    assert answers[0][1] == "word " * 200


@pytest.mark.parametrize(
    "arguments", ['{"city": "Paris"', "null", "  ", "", "Paris", "{'city': 1}", '{"a": NaN}', {"a": 1}, None]
)
async def test_tokenize_takes_any_arguments_in_history(gateway: RunningGateway, arguments: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "c", "content": "x"}
    messages = [*HI, {"role": "assistant", "tool_calls": [call]}, result]
    text = await text_of(gateway, await tokens_of(gateway, messages=messages))
    assert not isinstance(arguments, str) or arguments.strip() in text
