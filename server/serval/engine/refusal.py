"""Failures that the engine reports, as errors of the API.

Texts of the engine are written for its operator, who finds them in the engine's own log: they may hold paths
and settings, and what callers sent. Here they are neither passed on nor logged. A client is told of those
that are known to be meant for the caller (`_FOR_CALLERS`).
"""

import logging
import re
from typing import Any, Final

import msgspec

from serval.errors import (
    ApiError,
    EngineFailureError,
    EngineOverloadedError,
    EngineUnavailableError,
    InvalidRequestError,
)

logger = logging.getLogger(__name__)

NO_REASON: Final = "the engine gave no readable reason"
# Statuses of a request that is at fault: malformed, too large, or not valid.
_AT_FAULT: Final = frozenset({400, 413, 422})
_BUSY: Final = frozenset({429, 503})

# SGLang's validation texts about what the gateway cannot check by itself, and what a client is told instead.
# Numbers are taken over, and what a grammar lacks. model_adapter/UPSTREAM.md lists where SGLang writes them.
_FOR_CALLERS: Final = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (
            r"logit_bias must has keys in \[0, (\d{1,9})\]",
            r"The keys of `logit_bias` must be token ids from 0 to \1.",
        ),
        (
            r"The input \((\d{1,9}) tokens\) is longer than the model's context length \((\d{1,9}) tokens\)",
            r"The prompt of \1 tokens is longer than the context of \2 tokens.",
        ),
        (
            r"Input length \((\d{1,9}) tokens\) exceeds the maximum allowed length \((\d{1,9}) tokens\)",
            r"The prompt of \1 tokens is longer than the engine's limit of \2 tokens.",
        ),
        (
            r"Requested token count exceeds the model's maximum context length of (\d{1,9}) tokens\."
            r" You requested a total of (\d{1,9}) tokens",
            r"Prompt and completion of \2 tokens are longer than the context of \1 tokens.",
        ),
        (
            # About the caller's own `regex` or `ebnf`, in xgrammar's words, after a path in its sources.
            r"Failed to compile \w{1,20} grammar: [^\n]{1,200}: ("
            r"(?:EBNF (?:lexer|parser) error at line \d{1,6}, column \d{1,6}"
            r"|Regex parsing error at position \d{1,6}): [^\n/\\]{1,200})$",
            r"The engine cannot compile the grammar of this request: \1",
        ),
        (
            r"Failed to compile \w{1,20} grammar: ",
            "The engine cannot compile the grammar that this request asks for with its strict tools,"
            " `response_format`, `regex` or `ebnf`.",
        ),
    )
)


def engine_error(status: int | None, message: str, *, request_id: str) -> ApiError:
    """Return the API error for a failure reported with an HTTP status, or for an abort (None).

    The engine's `request_id` is logged: it is in the request's own log line too.
    """
    logger.warning("engine failed on %s with status %s; its own log says why", request_id, status)
    if status is None:
        return EngineUnavailableError("The engine stopped working on this request.", code="engine_aborted")
    if status in _AT_FAULT:
        return InvalidRequestError(_for_caller(message))
    if status in _BUSY:
        return EngineOverloadedError("The engine has no room for this request.", retry_after_s=1)
    return EngineFailureError("The engine failed on this request.")


def _for_caller(message: str) -> str:
    for pattern, text in _FOR_CALLERS:
        match = pattern.match(message)
        if match is not None:
            return match.expand(text)
    return (
        "The engine refused this request for a reason that its operator finds in the engine's log. Quote the"
        " x-request-id when you report it."
    )


def error_message(body: bytes) -> str:
    """Return the message of an error response of the engine, which has several shapes."""
    try:
        content: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return NO_REASON
    if isinstance(content, dict):
        error = content.get("error", content)
        if isinstance(error, str):
            return error
        if isinstance(error, dict):
            for name in ("message", "detail"):
                if isinstance(error.get(name), str):
                    return str(error[name])
    return NO_REASON
