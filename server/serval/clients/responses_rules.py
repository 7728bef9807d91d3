"""Rules that answers of the Responses API keep, as Codex and OpenAI's SDKs rely on them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from serval.clients.chat_rules import is_object
from serval.clients.events import Event

_ENDS: Final = {"response.completed", "response.incomplete", "response.failed"}
# Event with a piece -> event with the whole, and its field.
_WHOLES: Final = {
    "response.output_text.delta": ("response.output_text.done", "text"),
    "response.function_call_arguments.delta": ("response.function_call_arguments.done", "arguments"),
    "response.custom_tool_call_input.delta": ("response.custom_tool_call_input.done", "input"),
}


def whole_faults(body: Any, request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of a whole answer, or of the one at the end of a stream."""
    if not isinstance(body, dict) or body.get("object") != "response":
        yield "the body is no response"
        return
    if not body.get("id"):
        yield "no id"
    if body.get("status") not in {"completed", "incomplete"}:
        yield f"the response is {body.get('status')}: {_message(body)}"
        return
    usage = body.get("usage")
    if not isinstance(usage, dict) or not {"input_tokens", "output_tokens", "total_tokens"} <= usage.keys():
        yield "no usage"
    items = body.get("output")
    if not isinstance(items, list):
        yield "no output"
        return
    if len({item.get("id") for item in items}) != len(items):
        yield "two items have the same id, or none"
    for item in items:
        yield from _item_faults(item)


def stream_faults(events: Sequence[Event], request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of a stream."""
    data = [event.data for event in events if isinstance(event.data, dict)]
    if any(event.name != event.data.get("type") for event in events if isinstance(event.data, dict)):
        yield "the name of an event is not its type"
    kinds = [each.get("type") for each in data]
    if [each.get("sequence_number") for each in data] != list(range(len(data))):
        yield "sequence numbers are not 0, 1, 2, ..."
    if kinds[:1] != ["response.created"]:
        yield "the first event is not response.created"
    if not kinds or kinds[-1] not in _ENDS or len([kind for kind in kinds if kind in _ENDS]) != 1:
        yield "the stream does not end with response.completed, incomplete or failed"
        return
    last = data[-1].get("response") or {}
    if len({(each["response"] or {}).get("id") for each in data if "response" in each}) != 1:
        yield "the response has different ids in its events"
    done: list[Mapping[str, Any]] = []
    yield from _order_faults(data, done)
    yield from whole_faults(last, request)
    if [item.get("id") for item in done] != [item.get("id") for item in last.get("output") or []]:
        yield "items of output_item.done and of the final response differ"


def _order_faults(data: Sequence[Mapping[str, Any]], done: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the faults of the items' events, and add each finished item to `done`."""
    opened: Mapping[str, Any] | None = None
    pieces: dict[str, str] = {}
    parts = 0
    for event in data:
        kind = str(event.get("type"))
        if kind == "response.output_item.added":
            if opened is not None or event.get("output_index") != len(done):
                yield f"item {event.get('output_index')} is added after {len(done)} items"
            opened, pieces, parts = event.get("item") or {}, {}, 0
        elif kind == "response.output_item.done":
            item = event.get("item") or {}
            if opened is None or opened.get("id") != item.get("id"):
                yield "output_item.done has another id than output_item.added"
            done.append(item)
            opened = None
        elif "item_id" in event:
            if opened is None or event["item_id"] != opened.get("id"):
                yield f"{kind} has another item_id than output_item.added"
            parts += kind == "response.content_part.added"
            if kind == "response.output_text.delta" and not parts:
                yield "output_text.delta before content_part.added"
            yield from _sum_faults(event, kind, pieces)
    if opened is not None:
        yield "an item is not done"


def _sum_faults(event: Mapping[str, Any], kind: str, pieces: dict[str, str]) -> Iterator[str]:
    """Yield a fault if a whole text is not the sum of its `pieces`, and add a piece to them."""
    if kind in _WHOLES:
        whole, _ = _WHOLES[kind]
        pieces[whole] = pieces.get(whole, "") + str(event.get("delta"))
    for whole, field in _WHOLES.values():
        if kind == whole and event.get(field) != pieces.get(whole, ""):
            yield f"{kind} is not the sum of its deltas"


def _item_faults(item: Mapping[str, Any]) -> Iterator[str]:
    kind = item.get("type")
    if not item.get("id"):
        yield f"an item {kind} without id"
    if kind in {"function_call", "custom_tool_call"} and not (item.get("call_id") and item.get("name")):
        yield f"{kind} without call_id or name"
    if kind == "function_call" and item.get("status") == "completed" and not is_object(item.get("arguments")):
        yield f"arguments of {item.get('name')} are no JSON object"
    if kind == "message" and item.get("role") != "assistant":
        yield "a message that is not the assistant's"


def _message(body: Mapping[str, Any]) -> str:
    error = body.get("error")
    return f"{error.get('code')}: {error.get('message')}"[:200] if isinstance(error, dict) else "no error"
