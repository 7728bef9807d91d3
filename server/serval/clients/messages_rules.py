"""Rules that answers of Anthropic's Messages API keep, as Claude Code and Anthropic's SDKs rely on them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from serval.clients.chat_rules import is_object
from serval.clients.events import Event

_STOPPED: Final = {
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal",
    "model_context_window_exceeded",
}  # fmt: skip
# Kind of a block -> the deltas that it may have.
_DELTAS: Final = {
    "text": {"text_delta", "citations_delta"},
    "tool_use": {"input_json_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "redacted_thinking": set[str](),
}


def count_faults(body: Any, request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of an answer of `count_tokens`."""
    if (
        not isinstance(body, dict)
        or not isinstance(body.get("input_tokens"), int)
        or body["input_tokens"] < 1
    ):
        yield "no input_tokens"


def whole_faults(body: Any, request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of a whole answer."""
    if not isinstance(body, dict) or body.get("type") != "message" or body.get("role") != "assistant":
        yield "the body is no message of the assistant"
        return
    if not body.get("id"):
        yield "no id"
    yield from _stop_faults(body.get("stop_reason"), body.get("content") or [])
    usage = body.get("usage")
    if not isinstance(usage, dict) or not {"input_tokens", "output_tokens"} <= usage.keys():
        yield "no usage"
    for block in body.get("content") or []:
        if block.get("type") not in _DELTAS:
            yield f"a block of type {block.get('type')!r}"
        if block.get("type") == "tool_use" and not (block.get("id") and isinstance(block.get("input"), dict)):
            yield "a tool_use without id or input"


def stream_faults(events: Sequence[Event], request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of a stream."""
    if any(event.name != event.data.get("type") for event in events if isinstance(event.data, dict)):
        yield "the name of an event is not its type"
    data = [
        event.data for event in events if isinstance(event.data, dict) and event.data.get("type") != "ping"
    ]
    kinds = [each.get("type") for each in data]
    if "error" in kinds:
        yield f"an error in the stream: {data[kinds.index('error')].get('error')}"[:200]
        return
    for kind in ("message_start", "message_delta", "message_stop"):
        if kinds.count(kind) != 1:
            yield f"{kinds.count(kind)} events {kind}"
    if kinds[:1] != ["message_start"] or kinds[-2:] != ["message_delta", "message_stop"]:
        yield "the order is not message_start, blocks, message_delta, message_stop"
        return
    yield from _start_faults(data[0].get("message") or {})
    blocks: list[dict[str, Any]] = []
    yield from _block_faults(data[1:-2], blocks)
    delta = data[-2]
    yield from _stop_faults((delta.get("delta") or {}).get("stop_reason"), blocks)
    if not isinstance((delta.get("usage") or {}).get("output_tokens"), int):
        yield "no usage.output_tokens in message_delta"


def _start_faults(message: Mapping[str, Any]) -> Iterator[str]:
    if not message.get("id") or message.get("role") != "assistant" or message.get("content") != []:
        yield "message_start without id, role and an empty content"
    if not isinstance((message.get("usage") or {}).get("input_tokens"), int):
        yield "no usage.input_tokens in message_start"


def _block_faults(events: Sequence[Mapping[str, Any]], blocks: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the faults of the blocks, and add each to `blocks`."""
    opened: dict[str, Any] | None = None
    parts = ""
    for event in events:
        kind, index = event.get("type"), event.get("index")
        if kind == "content_block_start":
            if opened is not None or index != len(blocks):
                yield f"block {index} starts after {len(blocks)} blocks" + (
                    ", inside another" if opened else ""
                )
            opened, parts = dict(event.get("content_block") or {}), ""
            blocks.append(opened)
            if opened.get("type") == "tool_use" and not (opened.get("id") and opened.get("name")):
                yield "a tool_use without id or name"
        elif opened is None or index != len(blocks) - 1:
            yield f"{kind} outside its block"
        elif kind == "content_block_delta":
            delta = event.get("delta") or {}
            if delta.get("type") not in _DELTAS.get(opened.get("type", ""), set()):
                yield f"{delta.get('type')} in a block of type {opened.get('type')}"
            parts += delta.get("partial_json") or ""
        elif kind == "content_block_stop":
            opened["json"], opened = parts, None
        else:
            yield f"an event {kind} among the blocks"
    if opened is not None:
        yield "a block is not closed"


def _stop_faults(stop_reason: Any, blocks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if stop_reason not in _STOPPED:
        yield f"stop_reason is {stop_reason!r}"
    uses = [block for block in blocks if block.get("type") == "tool_use"]
    if uses and stop_reason in {"end_turn", "refusal"}:
        yield f"tool_use blocks, but stop_reason is {stop_reason}"
    if not uses and stop_reason == "tool_use":
        yield "stop_reason is tool_use, but there is none"
    if len({block.get("id") for block in uses}) != len(uses):
        yield "two tool_use blocks have the same id"
    if stop_reason == "tool_use":
        for block in uses:
            if block.get("json") and not is_object(block["json"]):
                yield f"input of {block.get('name')} is no JSON object"
