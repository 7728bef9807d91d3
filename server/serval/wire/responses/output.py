"""Items of an answer in the Responses API."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from serval.wire.responses.tools import CalledTool, Kind

Status = Literal["in_progress", "completed", "incomplete"]

_CALL_TYPES: Final[Mapping[Kind, str]] = {
    "function": "function_call",
    "custom": "custom_tool_call",
    "tool_search": "tool_search_call",
    "local_shell": "local_shell_call",
}
# Prefixes of the ids of calls' items.
CALL_PREFIXES: Final[Mapping[Kind, str]] = {
    "function": "fc",
    "custom": "ctc",
    "tool_search": "tsc",
    "local_shell": "lsh",
}


def message_item(
    item_id: str, status: Status, text: str, logprobs: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return a message of one text."""
    return {
        "id": item_id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [text_part(text, logprobs)],
    }


def text_part(text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the part that holds a message's text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def reasoning_item(item_id: str, status: Status, text: str) -> dict[str, Any]:
    """Return an item with the model's thoughts."""
    return {
        "id": item_id,
        "type": "reasoning",
        "status": status,
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
        "encrypted_content": None,
    }


def sealed_item(item_id: str, sealed: str) -> dict[str, Any]:
    """Return an item with a sealed turn; it has no thoughts."""
    return {
        "id": item_id,
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [],
        "encrypted_content": sealed,
    }


def call_item(
    item_id: str, status: Status, called: CalledTool, call_id: str, arguments: str
) -> dict[str, Any]:
    """Return a call of the tool's kind.

    `arguments` is JSON text, which may be cut, or the text of a custom tool.
    """
    item: dict[str, Any] = {
        "id": item_id,
        "type": _CALL_TYPES[called.kind],
        "status": status,
        "call_id": call_id,
    }
    if called.kind == "tool_search":
        return item | {"execution": "client", "arguments": _object_of(arguments)}
    if called.kind == "local_shell":
        return item | {"action": _shell_action(_object_of(arguments))}
    item["name"] = called.name
    if called.namespace is not None:
        item["namespace"] = called.namespace
    return item | {"input" if called.kind == "custom" else "arguments": arguments}


def _object_of(arguments: str) -> dict[str, Any]:
    """Return the arguments; nothing if they were cut."""
    try:
        value = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _shell_action(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the command; `env` is required of it."""
    return {"type": "exec", **{name: value for name, value in arguments.items() if name != "type"}} | (
        {} if "env" in arguments else {"env": {}}
    )
