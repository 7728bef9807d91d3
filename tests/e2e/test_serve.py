"""First use of the server: `make serve`, then the stock `openai` client. Real engine, no stand-ins."""

import json
import signal
from collections.abc import Iterable
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from serval_testkit.processes import descendants, is_running
from serval_testkit.weather_tool import WEATHER_TOOL

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def collect_text(chunks: Iterable[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def collect_calls(chunks: Iterable[ChatCompletionChunk]) -> list[dict[str, str]]:
    calls: dict[int, dict[str, str]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            for piece in choice.delta.tool_calls or ():
                call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += piece.id or ""
                assert piece.function is not None
                call["name"] += piece.function.name or ""
                call["arguments"] += piece.function.arguments or ""
    return [calls[index] for index in sorted(calls)]


def tool_call_message(calls: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in calls
        ],
    }


def ask(client: openai.OpenAI, model: str, messages: list[Any], **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages, temperature=0, **options)


def test_ready_line_says_url_model_device_and_key(server: Any, model: str) -> None:
    fields = dict(part.split("=", 1) for part in server.ready_line.split() if "=" in part)
    assert fields["url"] == server.base_url
    assert fields["model"] == model
    assert fields["device"] in {"cpu", "cuda"}
    # The operator's own key is named by its variable, not printed into a log.
    assert fields["key"] == "$SERVAL_API_KEY"
    assert server.api_key not in server.program.output


def test_chat_answer(client: openai.OpenAI, model: str) -> None:
    answer = ask(client, model, [{"role": "user", "content": "What is the capital of France?"}])
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_answer_is_the_same_text(client: openai.OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": "What is Serval?"}]
    whole = ask(client, model, messages).choices[0].message.content
    chunks = list(ask(client, model, messages, stream=True, stream_options={"include_usage": True}))
    assert collect_text(chunks) == whole
    assert "inference server" in whole
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_streamed_tool_call_and_the_answer_from_its_result(client: openai.OpenAI, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris for the next 3 days?"}]
    calls = collect_calls(ask(client, model, messages, tools=[WEATHER_TOOL], stream=True))
    assert [call["name"] for call in calls] == ["get_weather"]
    assert json.loads(calls[0]["arguments"]) == {"city": "Paris", "days": 3}

    result = {"city": "Paris", "forecast": "sunny", "temp_c": 21}
    messages += [
        tool_call_message(calls),
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": json.dumps(result)},
    ]
    answer = ask(client, model, messages, tools=[WEATHER_TOOL]).choices[0]
    assert answer.finish_reason == "stop"
    assert answer.message.tool_calls is None
    for expected in ("Paris", "sunny", "21"):
        assert expected in answer.message.content


def test_parallel_calls_are_two_calls(client: openai.OpenAI, model: str) -> None:
    question = "Compare the weather in Paris and Rome for the next 2 days."
    options = {"tools": [WEATHER_TOOL]}
    choice = ask(client, model, [{"role": "user", "content": question}], **options).choices[0]
    assert choice.finish_reason == "tool_calls"
    arguments = [json.loads(call.function.arguments) for call in choice.message.tool_calls]
    assert arguments == [{"city": "Paris", "days": 2}, {"city": "Rome", "days": 2}]


def test_wrong_key_is_401(server: Any, model: str) -> None:
    stranger = openai.OpenAI(base_url=server.base_url, api_key="sk-serval-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(stranger, model, [{"role": "user", "content": "Hello"}])
    assert caught.value.code == "invalid_api_key"


def test_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "gpt-4o", [{"role": "user", "content": "Hello"}])
    assert caught.value.code == "model_not_found"


def test_prompt_over_the_context_is_400(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, model, [{"role": "user", "content": "token " * 20_000}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "MODEL", "messages": []}', "messages"),
        (b'{"model": "MODEL", "messages": [{"role": "king", "content": "x"}]}', "messages[0].role"),
        (
            b'{"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "temperature": 9}',
            "temperature",
        ),
    ],
)
def test_bad_body_is_400_and_names_the_field(server: Any, model: str, body: bytes, param: str | None) -> None:
    headers = {"authorization": f"Bearer {server.api_key}", "content-type": "application/json"}
    content = body.replace(b"MODEL", model.encode())
    response = httpx.post(f"{server.base_url}/chat/completions", content=content, headers=headers, timeout=60)
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


def test_server_goes_on_after_errors(client: openai.OpenAI, model: str) -> None:
    answer = ask(client, model, [{"role": "user", "content": "Hello"}])
    assert answer.choices[0].finish_reason == "stop"


def test_health_and_metrics_are_served(server: Any) -> None:
    assert httpx.get(f"{server.root_url}/healthz", timeout=60).status_code == 200
    assert httpx.get(f"{server.root_url}/readyz", timeout=60).status_code == 200
    assert "serval_" in httpx.get(f"{server.root_url}/metrics", timeout=60).text


def test_sigterm_stops_everything_cleanly(server: Any) -> None:
    """Must be the last test of the session, because it ends the shared server."""
    started = descendants(server.program.process.pid)
    serve_pid = min(started)
    server.program.signal(signal.SIGTERM)
    server.program.wait(timeout_s=120)
    assert not [pid for pid in started if is_running(pid)], f"{serve_pid} left processes behind"
