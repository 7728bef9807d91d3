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
from serval.api.endpoints import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, Endpoint
from serval.api.responses import LIMIT_HEADERS, WITH_KEY, Responses, errors, success
from serval.wire.answers import ChatCompletion, ChatCompletionChunk, TextCompletion
from serval.wire.chat_request import ChatRequest
from serval.wire.completion_request import CompletionRequest
from serval.wire.components import model_components, reference_to, struct_components
from serval.wire.responses.described import ResponseEvent, ResponseObject
from serval.wire.responses.described_request import responses_schemas
from serval.wire.responses.request import ResponsesRequest

router = APIRouter(
    dependencies=[Depends(api_key)],
    responses={**WITH_KEY, **errors(404, 413, 415, 429, 502, 504)},
    default_response_class=Response,
)

# OpenAPI 3.1 can describe a stream only as text; the schema of its events' data is given beside it.
_STREAM: Final = {
    "type": "string",
    "description": (
        "Events `data: {...}` of this schema, comments `: ping` between, and `data: [DONE]` last."
    ),
}


_NAMED_EVENTS: Final = {
    "type": "string",
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


def _answers(whole: type, event: type, *, stream: Mapping[str, str] = _STREAM) -> Responses:
    content = {
        "application/json": {"schema": reference_to(whole)},
        "text/event-stream": {"schema": stream, "x-event-schema": reference_to(event)},
    }
    return success(headers=LIMIT_HEADERS, content=content)


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
    RESPONSES.path,
    summary="Answer a conversation in the form of the Responses API, whole or as server-sent events",
    responses=_answers(ResponseObject, ResponseEvent, stream=_NAMED_EVENTS),
    openapi_extra=_body(ResponsesRequest),
)
async def responses(request: Request) -> Response:
    return _raw(request, RESPONSES)


def inference_schemas() -> dict[str, Any]:
    """Return the schemas that the routes above refer to, by name, and all that those refer to."""
    requests = struct_components([ChatRequest, CompletionRequest, ResponsesRequest])
    answers: list[type[BaseModel]] = [
        ChatCompletion,
        ChatCompletionChunk,
        TextCompletion,
        ResponseObject,
        ResponseEvent,
    ]
    return requests | responses_schemas() | model_components(answers)
