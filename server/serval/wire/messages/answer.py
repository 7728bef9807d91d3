"""Answers and errors of the Messages API, as objects and as bytes."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from serval.errors import (
    ApiError,
    ContextLengthError,
    EngineOverloadedError,
)
from serval.wire.chat_response import AnsweredCall, AnsweredChoice, Usage

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]

# Not one of HTTP's own: Anthropic's clients know it as "overloaded".
OVERLOADED_STATUS: Final = 529
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    OVERLOADED_STATUS: "overloaded_error",
}

_PARAMETERS: Final = re.compile(r"\b(tools/[^/\s]+)/parameters\b")

_encode = msgspec.json.Encoder().encode


def usage_object(usage: Usage) -> dict[str, int]:
    """Return the counts: `input_tokens` are those that were not found in the cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def stop_of(choice: AnsweredChoice, usage: Usage, *, max_tokens: int) -> dict[str, str | None]:
    """Return the reason for the answer's end; `max_tokens` is the limit that the client set."""
    reason: StopReason = "end_turn"
    if choice.finish_reason == "length":
        whole = usage.completion_tokens >= max_tokens
        reason = "max_tokens" if whole else "model_context_window_exceeded"
    elif choice.finish_reason == "tool_calls":
        reason = "tool_use"
    elif choice.stop_string is not None:
        reason = "stop_sequence"
    return {
        "stop_reason": reason,
        "stop_sequence": choice.stop_string if reason == "stop_sequence" else None,
    }


def message_object(message_id: str, model: str, usage: Usage) -> dict[str, Any]:
    """Return a message without content, as a stream begins with it."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_object(usage),
    }


def message_body(
    message_id: str,
    *,
    model: str,
    choice: AnsweredChoice,
    usage: Usage,
    max_tokens: int,
    context_management: Mapping[str, Any] | None = None,
) -> bytes:
    """Encode a whole answer; `context_management` says which edits were applied, if any were asked for."""
    message = message_object(message_id, model, usage) | {"content": _content(choice)}
    if context_management is not None:
        message["context_management"] = context_management
    return _encode(message | stop_of(choice, usage, max_tokens=max_tokens))


def _content(choice: AnsweredChoice) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if choice.reasoning:
        blocks.append({"type": "thinking", "thinking": choice.reasoning, "signature": ""})
    if choice.content:
        blocks.append({"type": "text", "text": choice.content})
    blocks += [block for call in choice.tool_calls if (block := _call(call)) is not None]
    return blocks


def _call(call: AnsweredCall) -> dict[str, Any] | None:
    """Return the call's block; None for a cut call, whose arguments are no object that could be run."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return None
    if not isinstance(arguments, dict):
        return None
    # The model's own text of the arguments: decoded numbers would be written differently.
    return {
        "type": "tool_use",
        "id": call.id,
        "name": call.name,
        "input": msgspec.Raw(call.arguments.encode()),
    }


def error_status(error: ApiError) -> int:
    """Return the HTTP status that Anthropic's clients expect for the error."""
    return OVERLOADED_STATUS if isinstance(error, EngineOverloadedError) else error.status


def error_type(status: int) -> str:
    """Return the type of errors of this status."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def error_object(error: ApiError) -> dict[str, Any]:
    """Return Anthropic's error object."""
    detail = {"type": error_type(error_status(error)), "message": _message(error)}
    made: dict[str, Any] = {"type": "error", "error": detail}
    return made if error.request_id is None else made | {"request_id": error.request_id}


def _message(error: ApiError) -> str:
    if isinstance(error, ContextLengthError) and error.prompt_tokens is not None:
        # Claude Code recognises this wording, and compacts the conversation.
        return f"prompt is too long: {error.prompt_tokens} tokens > {error.limit} maximum"
    # Paths of schemas are those of Chat Completions.
    named = _PARAMETERS.sub(r"\1/input_schema", error.message)
    return named.replace("format/json_schema/schema", "format/schema")


def error_event(error: ApiError) -> bytes:
    """Encode an error in a stream that has begun."""
    return b"event: error\ndata: " + _encode(error_object(error)) + b"\n\n"
