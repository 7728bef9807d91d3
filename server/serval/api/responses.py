"""Descriptions of responses, for the parameter `responses` of FastAPI's routes and routers."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from serval.errors import ApiError
from serval.wire.answers import ErrorAnswer
from serval.wire.components import reference_to
from serval.wire.messages.answer import error_type
from serval.wire.messages.described import MessagesError

Responses = dict[int | str, dict[str, Any]]
Headers = dict[str, dict[str, Any]]

# Headers of every response; components of the document.
COMMON_HEADERS: Final[Headers] = {
    "x-request-id": {
        "description": "The request's id, which the log has too.",
        "schema": {"type": "string", "pattern": "^req_"},
        "required": True,
    },
    "openai-processing-ms": {
        "description": "Milliseconds until the answer began.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "required": True,
    },
}
# Headers of responses to a key with limits. A key whose tokens are limited by the day alone gets those.
LIMIT_HEADERS: Final[Mapping[str, str]] = {
    f"x-ratelimit-{name}-{unit}": text
    for unit in ("requests", "tokens")
    for name, text in (
        ("limit", f"How many {unit} the key may use, a minute or (tokens) a day."),
        ("remaining", f"How many {unit} are left now."),
        ("reset", f"How long until all {unit} are there again, such as 250ms or 2m0s."),
    )
}
# Headers of answers of the engine.
ANSWER_HEADERS: Final[Mapping[str, str]] = {
    **LIMIT_HEADERS,
    "x-serval-cache": "Tokens of the prompt found in the prefix cache, and all of them, as in 5100/5200. Not"
    " in streams that began with a ping, before the engine's first token.",
}
# Header of responses of the Messages API, which Anthropic's clients read.
REQUEST_ID: Final[Mapping[str, str]] = {"request-id": "The same as x-request-id."}
_RETRY_AFTER: Final = {"retry-after": "Seconds to wait before the next try."}
_ERROR_HEADERS: Final[Mapping[int, Mapping[str, str]]] = {
    401: {"www-authenticate": "Bearer: send a key or a token."},
    415: {"accept-encoding": "Content codings that are read."},
    429: {**LIMIT_HEADERS, **_RETRY_AFTER},
    503: _RETRY_AFTER,
    529: _RETRY_AFTER,
}

# A reference, because for `model` FastAPI builds a validator for each status of each route.
_ERROR_CONTENT: Final = {"application/json": {"schema": reference_to(ErrorAnswer)}}


def success(
    status: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
    content: Mapping[str, Any] | None = None,
) -> Responses:
    """Describe a successful response: the common headers and `headers`, and `content` by media type."""
    described: dict[str, Any] = {"description": "Success", "headers": _headers(headers or {})}
    return {status: described if content is None else {**described, "content": content}}


def errors(*statuses: int) -> Responses:
    """Describe error responses, with the error codes of each status."""
    return {
        status: {
            "description": _description(status),
            "headers": _headers(_ERROR_HEADERS.get(status, {})),
            "content": _ERROR_CONTENT,
        }
        for status in statuses
    }


def messages_errors(*statuses: int) -> Responses:
    """Describe error responses of the Messages API, with the type of each status."""
    return {
        status: {
            "description": f"Type: {error_type(status)}.",
            "headers": _headers({**_ERROR_HEADERS.get(status, {}), **REQUEST_ID}),
            "content": {"application/json": {"schema": reference_to(MessagesError)}},
        }
        for status in statuses
    }


def _headers(described: Mapping[str, str]) -> Headers:
    common: Headers = {name: {"$ref": f"#/components/headers/{name}"} for name in COMMON_HEADERS}
    own: Headers = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()
    }
    return common | own


def _description(status: int) -> str:
    codes = sorted(codes_of(status))
    phrase = HTTPStatus(status).phrase
    return f"{phrase}. Codes: {', '.join(codes)}." if codes else phrase


def codes_of(status: int) -> set[str]:
    """Return the default error codes of the status."""
    codes: set[str] = set()
    unread: list[type[ApiError]] = [ApiError]
    while unread:
        kind = unread.pop()
        unread += kind.__subclasses__()
        if getattr(kind, "status", None) == status and kind.default_code is not None:
            codes.add(kind.default_code)
    return codes


# Responses of every endpoint, and of every endpoint that needs a key.
EVERYWHERE: Final = errors(400, 408, 431, 500, 501, 503, 505)
WITH_KEY: Final = errors(401, 403)
