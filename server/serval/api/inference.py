"""Routes of the hot endpoints, which are raw ASGI applications.

`RequestEdge` calls them past the router, whose machinery would cost more than they do. FastAPI describes
them, refuses their other methods, and calls them where there is no edge.
"""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serval.api.dependencies import api_key
from serval.api.endpoints import CHAT_COMPLETIONS, COMPLETIONS, COUNT_TOKENS, MESSAGES, RESPONSES, Endpoint
from serval.api.responses import (
    ANSWER_HEADERS,
    LIMIT_HEADERS,
    REQUEST_ID,
    WITH_KEY,
    Responses,
    errors,
    messages_errors,
    success,
)
from serval.wire.answers import ChatCompletion, ChatCompletionChunk, TextCompletion
from serval.wire.chat_request import ChatRequest
from serval.wire.completion_request import CompletionRequest
from serval.wire.components import model_components, reference_to, struct_components
from serval.wire.messages.described import CountTokensAnswer, MessagesAnswer, MessagesError, MessagesEvent
from serval.wire.messages.request import CountTokensRequest, MessagesRequest
from serval.wire.responses.described import ResponseEvent, ResponseObject
from serval.wire.responses.described_request import responses_schemas
from serval.wire.responses.request import ResponsesRequest

router = APIRouter(
    dependencies=[Depends(api_key)],
    responses={**WITH_KEY, **errors(404, 413, 415, 429, 502, 504)},
    default_response_class=Response,
)

# OpenAPI 3.1 cannot describe the events of a stream; the schema of their data is given beside it. Without a
# type: some tools read events as objects where the document says that the stream is a string.
_STREAM: Final = {
    "description": (
        "Events `data: {...}` of this schema, comments `: ping` between, and `data: [DONE]` last."
    ),
}


_NAMED_EVENTS: Final = {
    "description": (
        "Events `event: TYPE` and `data: {...}` of this schema, and comments `: ping` between. The last event"
        " is `response.completed`, `response.incomplete` or `response.failed`."
    ),
}


class RawResponse(Response):
    """Response that a raw ASGI application sends."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


_MESSAGES_STREAM: Final = {
    "description": (
        "Events `event: TYPE` with `data: {...}` of this schema, comments `: ping` between, and"
        " `message_stop` last."
    ),
}
_MESSAGES_ERRORS: Final = messages_errors(400, 401, 403, 404, 413, 415, 429, 500, 503, 529)


def _answers(
    whole: type,
    event: type,
    *,
    stream: Mapping[str, str] = _STREAM,
    headers: Mapping[str, str] = ANSWER_HEADERS,
) -> Responses:
    content = {
        "application/json": {"schema": reference_to(whole)},
        "text/event-stream": {"schema": stream, "x-event-schema": reference_to(event)},
    }
    return success(headers=headers, content=content)


def _body(kind: type) -> dict[str, Any]:
    content = {"application/json": {"schema": reference_to(kind)}}
    return {"requestBody": {"required": True, "content": content}}


def _raw(request: Request, endpoint: Endpoint) -> Response:
    app: ASGIApp = request.app.state.hot[endpoint.path]
    return RawResponse(app)


@router.post(
    CHAT_COMPLETIONS.path,
    summary="Answer a conversation, whole or as server-sent events",
    responses=_answers(ChatCompletion, ChatCompletionChunk),
    openapi_extra=_body(ChatRequest),
)
async def chat_completions(request: Request) -> Response:
    return _raw(request, CHAT_COMPLETIONS)


@router.post(
    COMPLETIONS.path,
    summary="Complete a text, whole or as server-sent events",
    responses=_answers(TextCompletion, TextCompletion),
    openapi_extra=_body(CompletionRequest),
)
async def completions(request: Request) -> Response:
    return _raw(request, COMPLETIONS)


@router.post(
    MESSAGES.path,
    summary="Answer a conversation of Anthropic's API, whole or as server-sent events",
    responses={
        **_answers(
            MessagesAnswer,
            MessagesEvent,
            stream=_MESSAGES_STREAM,
            headers={**ANSWER_HEADERS, **REQUEST_ID},
        ),
        **_MESSAGES_ERRORS,
        **messages_errors(502, 504),
    },
    openapi_extra=_body(MessagesRequest),
)
async def messages(request: Request) -> Response:
    return _raw(request, MESSAGES)


@router.post(
    COUNT_TOKENS.path,
    summary="Count the tokens of a conversation of Anthropic's API",
    responses={
        **success(
            headers={**LIMIT_HEADERS, **REQUEST_ID},
            content={"application/json": {"schema": reference_to(CountTokensAnswer)}},
        ),
        **_MESSAGES_ERRORS,
    },
    openapi_extra=_body(CountTokensRequest),
)
async def count_tokens(request: Request) -> Response:
    return _raw(request, COUNT_TOKENS)


@router.post(
    RESPONSES.path,
    summary="Answer a conversation in the form of the Responses API, whole or as server-sent events",
    responses=_answers(ResponseObject, ResponseEvent, stream=_NAMED_EVENTS),
    openapi_extra=_body(ResponsesRequest),
)
async def responses(request: Request) -> Response:
    return _raw(request, RESPONSES)


def inference_schemas() -> dict[str, Any]:
    """Return the schemas that the routes above refer to, by name, and all that those refer to."""
    requests = struct_components(
        [ChatRequest, CompletionRequest, MessagesRequest, CountTokensRequest, ResponsesRequest]
    )
    answers: list[type[BaseModel]] = [ChatCompletion, ChatCompletionChunk, TextCompletion]
    answers += [ResponseObject, ResponseEvent]
    answers += [MessagesAnswer, MessagesEvent, MessagesError, CountTokensAnswer]
    answers += [ResponseObject, ResponseEvent]
    return requests | responses_schemas() | model_components(answers)
