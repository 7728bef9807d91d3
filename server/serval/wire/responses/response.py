"""The response object of the Responses API."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from serval.errors import ApiError, ContextLengthError, InsufficientQuotaError, RateLimitError
from serval.wire.chat_response import FinishReason, Usage
from serval.wire.responses.request import ResponsesRequest
from serval.wire.responses.tools import effective_tools

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]

# Longer instructions and tools are not repeated in answers: a stream holds them three times.
MAX_REPEATED_BYTES: Final = 1 << 17


def response_object(
    answer_id: str,
    created: int,
    status: ResponseStatus,
    repeated: Mapping[str, Any],
    *,
    output: Sequence[Mapping[str, Any]],
    usage: Usage | None,
    error: ApiError | None,
) -> dict[str, Any]:
    """Return the response object. "incomplete" means that a limit of tokens has cut it.

    `repeated`: fields that are the same in all states of the response.
    """
    return {
        "id": answer_id,
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None if error is None else {"code": failure_code(error), "message": error.message},
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "output": output,
        **repeated,
        "usage": None if usage is None else usage_object(usage),
    }


def status_of(finish_reason: FinishReason) -> ResponseStatus:
    """Return the status of a finished response."""
    return "incomplete" if finish_reason == "length" else "completed"


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return the usage; cached tokens are a part of the input's."""
    return {
        "input_tokens": usage.prompt_tokens,
        # The prefix cache keeps every prompt, and a write to it costs nothing.
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def failure_code(error: ApiError) -> str:
    """Return the code of a response that failed after its first byte.

    Codex tries again after `server_error` and `rate_limit_exceeded`, and gives up after the others.
    """
    if isinstance(error, ContextLengthError | InsufficientQuotaError):
        return str(error.code)
    if isinstance(error, RateLimitError):
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < 500 else "server_error"


def repeated_fields(request: ResponsesRequest, *, service_tier: str) -> dict[str, Any]:
    """Return the fields of the response object that repeat the request; `service_tier` is the one in use."""
    text, reasoning = request.text, request.reasoning
    return {
        "background": False,
        "instructions": _short(request.instructions),
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "model": request.model,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {
            "effort": None if reasoning is None else reasoning.effort,
            "summary": None if reasoning is None else reasoning.summary,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": service_tier,
        "temperature": request.temperature,
        "text": {
            "format": {"type": "text"} if text is None or text.format is None else text.format,
            "verbosity": None if text is None else text.verbosity,
        },
        "tool_choice": "auto" if request.tool_choice is None else request.tool_choice,
        "tools": _repeated_tools(request.tools or ()),
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": "auto" if request.truncation == "auto" else "disabled",
        "user": request.user,
    }


def _short(text: str | None) -> str | None:
    return None if text is None or len(text) > MAX_REPEATED_BYTES else text


def _repeated_tools(raw_tools: Sequence[msgspec.Raw]) -> Sequence[Any] | msgspec.Raw:
    if sum(len(bytes(raw)) for raw in raw_tools) > MAX_REPEATED_BYTES:
        return ()
    # A copy, because a part of the body would keep the whole body in memory.
    return msgspec.Raw(msgspec.json.encode(effective_tools(raw_tools)))
