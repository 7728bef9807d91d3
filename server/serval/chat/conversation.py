"""Converting OpenAI messages and tools to the form that chat templates read.

Templates fail, or print Python literals, on forms that OpenAI allows: content as a list of parts, arguments
as a JSON string, a tool without a description. These are converted here. Messages and tools have already
been validated (`serval.wire`).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from serval.chat.as_written import written_float
from serval.schema import strict_json

# Name of the one argument that shows arguments which are not a JSON object.
_TEXT: Final = "arguments"
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Convert messages."""
    return _in_call_order([_message(message) for message in messages])


def template_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Convert tool declarations: every function gets a description and parameters."""
    return [_tool(tool["function"]) for tool in tools or ()]


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters")
    return {
        "type": "function",
        "function": {
            "name": function["name"],
            "description": function.get("description") or "",
            "parameters": {"type": "object", "properties": {}} if parameters is None else parameters,
        },
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    role = message["role"]
    converted: dict[str, Any] = {
        # Templates silently drop roles they do not know; "developer" is the newer name of "system".
        "role": "system" if role == "developer" else role,
        "content": _content(message.get("content")),
    }
    if role == "assistant":
        if calls := message.get("tool_calls"):
            converted["tool_calls"] = [_tool_call(call) for call in calls]
        # Some servers call it `reasoning`, and clients send back what they got.
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            converted["reasoning_content"] = reasoning
    for name in ("name", "tool_call_id"):
        if message.get(name) is not None:
            converted[name] = message[name]
    return converted


def _content(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    # Without a separator, the last word of one part and the first of the next would run together.
    return "\n".join(part[part["type"]] for part in content)


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    converted: dict[str, Any] = {
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": _arguments(function["arguments"]),
        },
    }
    if call.get("id") is not None:
        converted["id"] = call["id"]
    return converted


def _arguments(given: str | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return arguments as the mapping that templates iterate over.

    OpenAI's arguments are text, which is usually a JSON object. A call that was cut, or that another model
    wrote, may have any other text: it is shown as it is, as one argument. A conversation must not fail for
    ever because of a call in its history.
    """
    if not isinstance(given, str):
        return given or {}
    if not given.strip():
        return {}
    arguments = _json_object(given)
    return {_TEXT: given} if arguments is None else arguments


def _json_object(text: str) -> dict[str, Any] | None:
    """Decode a JSON object; None if `text` is not one that can be rendered."""
    if strict_json.too_deep(text):
        return None
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite_float)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    # Half a surrogate pair can be written in JSON, but it is not text that can be rendered.
    if _SURROGATE.search(text) and not _is_unicode(value):
        return None
    return value


def _is_unicode(value: Any) -> bool:
    written = json.dumps(value, ensure_ascii=False)
    return strict_json.clean(written) == written


def _finite_float(literal: str) -> float:
    number = written_float(literal)
    if math.isinf(number):
        raise ValueError(f"{literal} is beyond the range of numbers")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _in_call_order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort each run of tool results by the calls they answer.

    The template prints neither call ids nor tool names, so only the order links a result to its call.
    """
    ordered: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    run: list[dict[str, Any]] = []

    def close_run() -> None:
        run.sort(key=lambda message: places.get(message.get("tool_call_id", ""), len(places)))
        ordered.extend(run)
        run.clear()

    for message in messages:
        if message["role"] == "tool":
            run.append(message)
            continue
        close_run()
        ordered.append(message)
        if message["role"] == "assistant":
            calls = message.get("tool_calls", ())
            places = {call["id"]: place for place, call in enumerate(calls) if "id" in call}
    close_run()
    return ordered
