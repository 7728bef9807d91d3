"""Sampling fields on the real engine: stop strings, log-probabilities, usage, and aborted requests."""

import http.client
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from serval_testkit.weather_tool import WEATHER_TOOL

pytestmark = pytest.mark.engine

QUESTION: list[Any] = [{"role": "user", "content": "What is Serval?"}]


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def ask(client: openai.OpenAI, model: str, **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=QUESTION, temperature=0, **options)


def post(server: Any, path: str, body: dict[str, Any]) -> Any:
    headers = {"authorization": f"Bearer {server.api_key}"}
    return httpx.post(f"{server.root_url}{path}", json=body, headers=headers, timeout=60).json()


def running_requests(server: Any, engine_key: str) -> int:
    headers = {"authorization": f"Bearer {engine_key}"}
    loads = httpx.get(f"{server.engine_url}/v1/loads?include=core", headers=headers, timeout=60).json()
    return sum(load["num_running_reqs"] for load in loads["loads"])


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.1)


def aborted_requests(server: Any) -> float:
    page = httpx.get(f"{server.engine_url}/metrics", timeout=60).text
    values = re.findall(r"^sglang:num_aborted_requests_total(?:\{.*\})? (\S+)$", page, re.MULTILINE)
    return sum(map(float, values))


def test_stop_string_is_not_part_of_the_answer_whole_or_streamed(client: openai.OpenAI, model: str) -> None:
    full = ask(client, model).choices[0].message.content
    stop = full[len(full) // 3 :][:9]
    expected = full[: full.index(stop)]
    whole = ask(client, model, stop=[stop, "never said"], logprobs=True).choices[0]
    assert (whole.message.content, whole.finish_reason) == (expected, "stop")
    tokens = "".join(entry.token for entry in whole.logprobs.content)
    assert expected.startswith(tokens)
    assert len(tokens) > len(expected) - 20
    chunks = list(ask(client, model, stop=stop, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_logprobs_spell_the_answer_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    whole = ask(client, model, logprobs=True, top_logprobs=3).choices[0]
    entries = whole.logprobs.content
    assert "".join(entry.token for entry in entries) == whole.message.content
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        # Greedy sampling chooses the most likely token.
        assert entry.token == entry.top_logprobs[0].token
    chunks = list(ask(client, model, logprobs=True, top_logprobs=3, stream=True))
    streamed = [entry for chunk in chunks if (found := chunk.choices[0].logprobs) for entry in found.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]
    text = ""
    spelled = ""
    for chunk in chunks:
        text += chunk.choices[0].delta.content or ""
        if chunk.choices[0].logprobs:
            spelled += "".join(entry.token for entry in chunk.choices[0].logprobs.content)
        assert spelled == text


def test_several_choices_count_the_prompt_once(client: openai.OpenAI, model: str) -> None:
    one = ask(client, model)
    two = ask(client, model, n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert {choice.message.content for choice in two.choices} == {one.choices[0].message.content}
    assert two.usage.prompt_tokens == one.usage.prompt_tokens
    assert two.usage.completion_tokens == 2 * one.usage.completion_tokens
    assert two.usage.prompt_tokens_details.cached_tokens > 0


def test_logit_bias_bans_a_token(server: Any, client: openai.OpenAI, model: str) -> None:
    full = ask(client, model).choices[0].message.content
    first = post(server, "/tokenize", {"model": model, "prompt": full})["tokens"][0]
    banned = ask(client, model, logit_bias={str(first): -100}, max_tokens=3).choices[0].message.content
    assert banned != full[: len(banned)]


def test_completion_of_the_same_ids_is_the_same_answer(
    server: Any, client: openai.OpenAI, model: str
) -> None:
    chat = ask(client, model).choices[0].message.content
    ids = post(server, "/tokenize", {"model": model, "messages": QUESTION})["tokens"]
    options: Any = {"model": model, "prompt": ids, "temperature": 0}
    assert client.completions.create(max_tokens=200, **options).choices[0].text == chat
    short = client.completions.create(max_tokens=5, **options)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 5
    streamed = client.completions.create(max_tokens=200, stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in streamed) == chat


@pytest.mark.parametrize("stream", [True, False])
def test_vanished_client_frees_the_engine(server: Any, engine_key: str, model: str, *, stream: bool) -> None:
    eventually(lambda: running_requests(server, engine_key) == 0)
    before = aborted_requests(server)
    # Without the end-of-turn token the model writes to the end of its context.
    assert post(server, "/detokenize", {"model": model, "tokens": [2]})["prompt"] == "</longcat_s>"
    request = {"model": model, "messages": QUESTION, "stream": stream, "logit_bias": {"2": -100}}
    headers = {"authorization": f"Bearer {server.api_key}"}
    url = f"{server.base_url}/chat/completions"
    if stream:
        with httpx.stream("POST", url, json=request, headers=headers, timeout=60) as response:
            # Headers may arrive before the engine begins, so wait for text.
            next(line for line in response.iter_lines() if '"content":"' in line and '"role"' not in line)
    else:
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.netloc)
        content = {"content-type": "application/json"}
        connection.request("POST", address.path, json.dumps(request), headers | content)
        # A request that has not reached the engine is not aborted there.
        eventually(lambda: running_requests(server, engine_key) == 1)
        connection.close()
    eventually(lambda: aborted_requests(server) > before)


GREETING: list[Any] = [{"role": "user", "content": "你好"}]


def test_logprobs_hold_the_bytes_of_characters_made_of_several_tokens(
    client: openai.OpenAI, model: str
) -> None:
    asked: dict[str, Any] = {"model": model, "messages": GREETING, "temperature": 0, "logprobs": True}
    choice = client.chat.completions.create(**asked, top_logprobs=2).choices[0]
    entries = choice.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == choice.message.content
    assert any(entry.token.startswith("bytes:") for entry in entries)


def test_answer_cut_inside_a_character_ends_before_it(client: openai.OpenAI, model: str) -> None:
    full = client.chat.completions.create(model=model, messages=GREETING, temperature=0)
    content = full.choices[0].message.content
    for limit in range(1, 9):
        asked: dict[str, Any] = {"model": model, "messages": GREETING, "temperature": 0, "max_tokens": limit}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        assert content.startswith(whole)
        chunks = client.chat.completions.create(**asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


@pytest.mark.parametrize("stop", ["Paris", "days", "\n", "arg_value"])
@pytest.mark.parametrize("strict", [False, True])
def test_stop_string_in_a_call_leaves_none_to_execute(
    client: openai.OpenAI, model: str, stop: str, strict: bool
) -> None:
    function = WEATHER_TOOL["function"]
    parameters = function["parameters"] | {"additionalProperties": False}
    tool = {"type": "function", "function": {**function, "parameters": parameters, "strict": strict}}
    question = [{"role": "user", "content": "What is the weather in Paris for the next 3 days?"}]
    asked: dict[str, Any] = {"model": model, "messages": question, "tools": [tool], "temperature": 0}
    called = client.chat.completions.create(**asked).choices[0]
    assert called.finish_reason == "tool_calls"
    cut = client.chat.completions.create(**asked, stop=stop).choices[0]
    assert cut.finish_reason == "stop"
    for call in cut.message.tool_calls or ():
        with pytest.raises(json.JSONDecodeError):
            json.loads(call.function.arguments)
