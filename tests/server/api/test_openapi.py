"""Responses of the running gateway match the OpenAPI document."""

import json
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from serval.api.application import create_api
from serval.wire.answers import ChatCompletionChunk, TextCompletion
from serval.wire.messages.described import MessagesEvent
from serval.wire.responses.described import ResponseEvent
from serval_testkit.gateway import MODEL, RunningGateway

HI: list[Any] = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
CALL = "<longcat_tool_call>f\n</longcat_tool_call>\n"
LOGPROBS = [[[-0.5, 100, "Hel"]], [[-0.25, 101, "lo"]]]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
STREAMED: dict[str, type[BaseModel]] = {
    CHAT: ChatCompletionChunk,
    TEXT: TextCompletion,
    MESSAGES: MessagesEvent,
    RESPONSES: ResponseEvent,
}
RESPONSE_TOOLS = [
    {"type": "function", "name": "f", "parameters": {"type": "object"}},
    {"type": "custom", "name": "patch"},
    {"type": "local_shell"},
    {"type": "tool_search", "execution": "client"},
]
RESPONSE_CALLS = CALL + "".join(
    CALL.replace(">f\n", f">{name}\n") for name in ("patch", "local_shell", "tool_search")
)
MESSAGES_TOOL = {"name": "f", "input_schema": {"type": "object"}}

ANSWERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HI, "n": 2, "service_tier": "auto"}, {}),
    "chat with a call": (CHAT, {"messages": HI, "tools": [TOOL]}, {"says": [CALL]}),
    "chat with a function": (CHAT, {"messages": HI, "functions": [FUNCTION]}, {"says": [CALL]}),
    "chat with reasoning": (CHAT, {"messages": HI}, {"says": ["<longcat_think>a</longcat_think>b"]}),
    "chat with log-probabilities": (
        CHAT,
        {"messages": HI, "logprobs": True, "top_logprobs": 1},
        {"says": ["Hel", "lo"], "logprobs": LOGPROBS},
    ),
    "text": (TEXT, {"prompt": "Hi", "n": 2, "echo": True}, {}),
    "text with log-probabilities": (
        TEXT,
        {"prompt": "Hi", "logprobs": 1},
        {"says": ["Hel", "lo"], "logprobs": LOGPROBS},
    ),
    "response": (RESPONSES, {"input": "Hi", "text": {"format": {"type": "text"}}}, {}),
    "response with calls": (RESPONSES, {"input": "Hi", "tools": RESPONSE_TOOLS}, {"says": [RESPONSE_CALLS]}),
    "response with reasoning": (RESPONSES, {"input": "Hi"}, {"says": ["<longcat_think>a</longcat_think>b"]}),
    "response with log-probabilities": (
        RESPONSES,
        {"input": "Hi", "top_logprobs": 1},
        {"says": ["Hel", "lo"], "logprobs": LOGPROBS},
    ),
    "message": (MESSAGES, {"messages": HI, "max_tokens": 9}, {}),
    "message with a call": (
        MESSAGES,
        {"messages": HI, "max_tokens": 9, "tools": [MESSAGES_TOOL]},
        {"says": ["I look.", CALL]},
    ),
    "message with reasoning": (
        MESSAGES,
        {"messages": HI, "max_tokens": 9},
        {"says": ["<longcat_think>a</longcat_think>b"]},
    ),
    "tokens of a message": (f"{MESSAGES}/count_tokens", {"messages": HI}, {}),
    "tokens": ("/tokenize", {"messages": HI}, {}),
    "text of tokens": ("/detokenize", {"tokens": [5, 6]}, {}),
}


@cache
def described_api() -> dict[str, Any]:
    return create_api().openapi()


def validate(instance: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    Draft202012Validator({**schema, "components": document["components"]}).validate(instance)


def answer_of(document: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    answer: dict[str, Any] = document["paths"][path][method]["responses"][str(status)]
    return answer


def headers_of(described: dict[str, Any]) -> set[str]:
    """Return the headers that are always present; those of limits need a limit."""
    return {name for name in described["headers"] if not name.startswith("x-ratelimit-")}


async def asked(gateway: RunningGateway, name: str, **more: Any) -> Any:
    path, body, engine = ANSWERS[name]
    if engine:
        gateway.engine.will_say(*engine["says"], logprobs=engine.get("logprobs"))
    response = await gateway.post({"model": MODEL, **body, **more}, path=path)
    assert response.status == 200, await response.text()
    return response


@pytest.mark.parametrize("name", ANSWERS)
async def test_whole_answer_matches_its_schema(gateway: RunningGateway, name: str) -> None:
    document = described_api()
    response = await asked(gateway, name)
    described = answer_of(document, ANSWERS[name][0], "post", 200)
    validate(await response.json(), described["content"]["application/json"]["schema"], document)
    assert headers_of(described) <= {name.lower() for name in response.headers}


@pytest.mark.parametrize("name", [name for name in ANSWERS if ANSWERS[name][0] in STREAMED])
async def test_streamed_events_match_their_schema(gateway: RunningGateway, name: str) -> None:
    document = described_api()
    path = ANSWERS[name][0]
    options = {} if path == MESSAGES else {"stream_options": {"include_usage": True}}
    response = await asked(gateway, name, stream=True, **options)
    schema = answer_of(document, path, "post", 200)["content"]["text/event-stream"]["x-event-schema"]
    events = [line[6:] for line in (await response.text()).splitlines() if line.startswith("data: {")]
    assert len(events) >= 2
    for event in events:
        validate(json.loads(event), schema, document)
        STREAMED[path].model_validate_json(event)


@pytest.mark.parametrize(
    "path", ["/v1/models", f"/v1/models/{MODEL}", "/openapi.json", "/healthz", "/readyz"]
)
async def test_get_answer_matches_its_schema(gateway: RunningGateway, path: str) -> None:
    document = described_api()
    response = await gateway.get(path)
    described = answer_of(document, path.replace(MODEL, "{model_id}"), "get", response.status)
    validate(await response.json(), described["content"]["application/json"]["schema"], document)


async def test_errors_match_their_schema_and_have_their_headers(gateway: RunningGateway) -> None:
    document = described_api()
    gateway.engine.ready = False
    for path, method, response in (
        (CHAT, "post", await gateway.post(b"{")),
        (CHAT, "post", await gateway.post({"model": "other", "messages": HI})),
        ("/v1/models", "get", await gateway.get("/v1/models", key=None)),
        ("/readyz", "get", await gateway.get("/readyz")),
    ):
        described = answer_of(document, path, method, response.status)
        validate(await response.json(), described["content"]["application/json"]["schema"], document)
        assert headers_of(described) <= {name.lower() for name in response.headers}
        code = (await response.json())["error"]["code"]
        assert code in described["description"] or code == "invalid_json"


async def test_errors_of_messages_match_their_schema_and_have_their_headers(gateway: RunningGateway) -> None:
    document = described_api()
    gateway.engine.will_say(fault="http_error", status=503)
    asked_for = {"model": MODEL, "messages": HI, "max_tokens": 1}
    for response in (
        await gateway.post(b"{", path=MESSAGES),
        await gateway.post({**asked_for, "model": "other"}, path=MESSAGES),
        await gateway.post(asked_for, path=MESSAGES, headers={"authorization": "Bearer other"}),
        await gateway.post(asked_for, path=MESSAGES),
    ):
        described = answer_of(document, MESSAGES, "post", response.status)
        body = await response.json()
        validate(body, described["content"]["application/json"]["schema"], document)
        assert headers_of(described) <= {name.lower() for name in response.headers}
        assert body["error"]["type"] in described["description"]


def test_every_error_status_is_described() -> None:
    from serval.errors import ApiError

    described = {
        int(status)
        for methods in described_api()["paths"].values()
        for operation in methods.values()
        for status in operation["responses"]
    }
    kinds = ApiError.__subclasses__()
    for kind in kinds:
        kinds += kind.__subclasses__()
    # 405 answers methods that are not described.
    assert {kind.status for kind in kinds} - described == {405}
