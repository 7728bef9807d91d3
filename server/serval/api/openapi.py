"""The OpenAPI document, `GET /openapi.json`, made from the types of requests, answers and errors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import msgspec

import serval
from serval.errors import ApiError
from serval.wire.answer_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Document,
    ErrorAnswer,
    Health,
    ModelList,
    ModelObject,
    TextCompletion,
)
from serval.wire.chat_request import ChatRequest
from serval.wire.completion_request import CompletionRequest
from serval.wire.tokenize import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest

Schema = dict[str, Any]

_REFERENCES: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_SSE: Final = "text/event-stream"
# Any request may meet these; 401 and 403 only where a key is needed.
_EVERYWHERE: Final = (400, 408, 431, 500, 503)
_WITH_KEY: Final = (401, 403)
_WITH_BODY: Final = (404, 413, 429)
_FROM_ENGINE: Final = (502, 504)
_HEADERS: Final = {
    "x-request-id": ("The request's id, which the log has too.", {"type": "string", "pattern": "^req_"}),
    "openai-processing-ms": (
        "Milliseconds until the answer began.",
        {"type": "string", "pattern": "^[0-9]+$"},
    ),
}
# Where the key has limits.
_LIMIT_HEADERS: Final[Mapping[str, str]] = {
    f"x-ratelimit-{what}-{unit}": text
    for unit in ("requests", "tokens")
    for what, text in (
        ("limit", f"How many {unit} a minute the key may use."),
        ("remaining", f"How many {unit} are left now."),
        ("reset", f"How long until all {unit} are there again, such as 250ms or 2m0s."),
    )
}
_ERROR_HEADERS: Final[Mapping[int, tuple[str, str]]] = {
    401: ("www-authenticate", "Bearer: send a key or a token."),
    429: ("retry-after", "Seconds to wait before the next try."),
    503: ("retry-after", "Seconds to wait before the next try."),
}


@dataclass(frozen=True)
class _Operation:
    """One method of one path; `answers` are the types of a 200 by media type."""

    method: str
    summary: str
    answers: Mapping[str, type]
    body: type | None = None
    errors: Iterable[int] = ()
    public: bool = False
    parameters: list[Schema] = field(default_factory=list)


_MODEL_ID: Final[Schema] = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
    "description": "May hold slashes.",
}
_OPERATIONS: Final[Mapping[str, _Operation]] = {
    "/v1/chat/completions": _Operation(
        "post",
        "Answer a conversation, whole or as server-sent events",
        {_JSON: ChatCompletion, _SSE: ChatCompletionChunk},
        body=ChatRequest,
        errors=_FROM_ENGINE,
    ),
    "/v1/completions": _Operation(
        "post",
        "Go on with a text, whole or as server-sent events",
        {_JSON: TextCompletion, _SSE: TextCompletion},
        body=CompletionRequest,
        errors=_FROM_ENGINE,
    ),
    "/tokenize": _Operation(
        "post", "Token ids of a text or a conversation", {_JSON: TokenizeAnswer}, body=TokenizeRequest
    ),
    "/detokenize": _Operation(
        "post", "The text of token ids", {_JSON: DetokenizeAnswer}, body=DetokenizeRequest
    ),
    "/v1/models": _Operation("get", "List the models", {_JSON: ModelList}),
    "/v1/models/{model_id}": _Operation(
        "get", "One model", {_JSON: ModelObject}, errors=(404,), parameters=[_MODEL_ID]
    ),
    "/openapi.json": _Operation("get", "This document", {_JSON: Document}),
    "/healthz": _Operation("get", "Whether the gateway is alive", {_JSON: Health}, public=True),
    "/readyz": _Operation("get", "Whether the engine takes requests", {_JSON: Health}, public=True),
    "/metrics": _Operation("get", "Prometheus metrics", {"text/plain": str}, public=True),
}


def openapi_document() -> dict[str, Any]:
    """The document as a JSON object."""
    bodies = [operation.body for operation in _OPERATIONS.values() if operation.body is not None]
    answers = [answer for operation in _OPERATIONS.values() for answer in operation.answers.values()]
    types = list(dict.fromkeys([*bodies, *answers, ErrorAnswer]))
    references, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCES)
    schema_of = dict(zip(types, references, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Serval",
            "version": serval.__version__,
            "description": "OpenAI-compatible inference server; server/API.md says where it differs.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": {
            path: {operation.method: _described(operation, schema_of)}
            for path, operation in _OPERATIONS.items()
        },
        "components": {
            "schemas": schemas,
            "headers": {
                name: {"description": text, "schema": schema, "required": True}
                for name, (text, schema) in _HEADERS.items()
            },
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or a token (JWT) of the identity provider.",
                }
            },
        },
    }


def _described(operation: _Operation, schema_of: Mapping[type, Schema]) -> Schema:
    statuses = {*_EVERYWHERE, *operation.errors}
    if not operation.public:
        statuses |= {*_WITH_KEY}
    if operation.body is not None:
        statuses |= {*_WITH_BODY}
    described: Schema = {
        "summary": operation.summary,
        "security": [] if operation.public else [{"bearer": []}],
        "responses": {
            "200": {
                "description": "Success",
                "headers": _headers(limited=operation.body is not None),
                "content": {
                    media: _content(media, schema_of[answer]) for media, answer in operation.answers.items()
                },
            },
            **{str(status): _error(status, schema_of[ErrorAnswer]) for status in sorted(statuses)},
        },
    }
    if operation.parameters:
        described["parameters"] = operation.parameters
    if operation.body is not None:
        content = {_JSON: {"schema": schema_of[operation.body]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _content(media: str, schema: Schema) -> Schema:
    if media == _SSE:
        # A stream is text to OpenAPI 3.1; what is in its `data:` lines is said beside it.
        events = "Events `data: {...}` of this schema, comments `: ping` between, and `data: [DONE]` last."
        return {"schema": {"type": "string", "description": events}, "x-event-schema": schema}
    return {"schema": schema}


def _headers(status: int = 200, *, limited: bool = False) -> Schema:
    headers: Schema = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS}
    if limited or status == 429:
        headers |= {
            name: {"description": text, "schema": {"type": "string"}} for name, text in _LIMIT_HEADERS.items()
        }
    if status in _ERROR_HEADERS:
        name, text = _ERROR_HEADERS[status]
        headers[name] = {"description": text, "schema": {"type": "string"}}
    return headers


def _error(status: int, schema: Schema) -> Schema:
    codes = sorted(codes_of(status))
    said = f"{HTTPStatus(status).phrase}. Codes: {', '.join(codes)}." if codes else HTTPStatus(status).phrase
    return {
        "description": said,
        "headers": _headers(status),
        "content": {_JSON: {"schema": schema}},
    }


def codes_of(status: int) -> set[str]:
    """The error codes that go with the status by default."""
    codes: set[str] = set()
    unread: list[type[ApiError]] = [ApiError]
    while unread:
        kind = unread.pop()
        unread += kind.__subclasses__()
        if getattr(kind, "status", None) == status and kind.default_code is not None:
            codes.add(kind.default_code)
    return codes
