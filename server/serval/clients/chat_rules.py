"""Rules that answers of Chat Completions keep, as clients rely on them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from serval.clients.events import Event

_FINISHED: Final = {"stop", "length", "tool_calls", "content_filter", "function_call"}


def whole_faults(body: Any, request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of a whole answer."""
    if not isinstance(body, dict) or body.get("object") != "chat.completion":
        yield "the body is no chat.completion"
        return
    if not body.get("id"):
        yield "no id"
    usage = body.get("usage")
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        yield "no usage"
    for choice in body.get("choices") or [{}]:
        if choice.get("finish_reason") not in _FINISHED:
            yield f"finish_reason is {choice.get('finish_reason')!r}"
        message = choice.get("message") or {}
        if message.get("role") != "assistant":
            yield "no message of the assistant"
        calls = message.get("tool_calls") or []
        for call in calls:
            yield from _call_faults(call.get("id"), call.get("function") or {}, choice.get("finish_reason"))
        if calls and choice.get("finish_reason") not in {"tool_calls", "length", "stop"}:
            yield "calls without finish_reason tool_calls"


def stream_faults(events: Sequence[Event], request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of a stream."""
    if not events or events[-1].data != "[DONE]":
        yield "the stream does not end with [DONE]"
    chunks = [event.data for event in events if event.data != "[DONE]"]
    errors = [chunk for chunk in chunks if "error" in chunk]
    if errors:
        yield f"an error in the stream: {_message(errors[0])}"
        return
    if not chunks:
        yield "no chunk"
        return
    if any(chunk.get("object") != "chat.completion.chunk" for chunk in chunks):
        yield "a chunk is no chat.completion.chunk"
    if len({chunk.get("id") for chunk in chunks}) != 1 or not chunks[0].get("id"):
        yield "chunks have no id, or different ones"
    choices = [choice for chunk in chunks for choice in chunk.get("choices") or []]
    yield from _choice_faults([choice for choice in choices if choice.get("index") == 0])
    if (request.get("stream_options") or {}).get("include_usage"):
        last = chunks[-1]
        if not isinstance(last.get("usage"), dict) or last.get("choices"):
            yield "no last chunk with usage and without choices"


def _choice_faults(pieces: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not pieces:
        yield "no choice"
        return
    if (pieces[0].get("delta") or {}).get("role") != "assistant":
        yield "the first delta has no role"
    finished = [piece["finish_reason"] for piece in pieces if piece.get("finish_reason")]
    if len(finished) != 1 or finished[0] not in _FINISHED:
        yield f"finish reasons are {finished}"
    elif not pieces[-1].get("finish_reason"):
        yield "deltas after finish_reason"
    calls: dict[int, dict[str, str]] = {}
    for piece in pieces:
        for delta in (piece.get("delta") or {}).get("tool_calls") or []:
            index, function = delta.get("index"), delta.get("function") or {}
            if index not in calls:
                if index != len(calls):
                    yield f"a call has index {index}, after {len(calls)} calls"
                calls[index] = {
                    "id": delta.get("id") or "",
                    "name": function.get("name") or "",
                    "arguments": "",
                }
            calls[index]["arguments"] += function.get("arguments") or ""
    for call in calls.values():
        yield from _call_faults(call["id"], call, finished[0] if finished else None)
    if len({call["id"] for call in calls.values()}) != len(calls):
        yield "two calls have the same id"


def _call_faults(call_id: Any, function: Mapping[str, Any], finish_reason: Any) -> Iterator[str]:
    if not call_id or not function.get("name"):
        yield "a call without id or name"
    if finish_reason == "tool_calls" and not is_object(function.get("arguments")):
        yield f"arguments of {function.get('name')} are no JSON object"


def is_object(text: Any) -> bool:
    """Return True if `text` is JSON text of an object."""
    try:
        return isinstance(json.loads(text), dict)
    except (TypeError, ValueError):
        return False


def _message(chunk: Mapping[str, Any]) -> str:
    error = chunk["error"]
    return str(error.get("message") if isinstance(error, dict) else error)[:200]
