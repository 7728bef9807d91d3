"""Converting OpenAI messages and tools to the form that chat templates read.

Templates fail, or print Python literals, on forms that OpenAI allows: content as a list of parts, arguments
as a JSON string, a tool without a description. These are converted here. Messages and tools have already
been validated (`serval.wire`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from serval.chat.as_written import written_float
from serval.errors import InvalidRequestError


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Convert messages.

    Raises `InvalidRequestError` if the arguments of a call are not a JSON object.
    """
    return _in_call_order([_message(message, f"messages[{index}]") for index, message in enumerate(messages)])


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


def _message(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    role = message["role"]
    converted: dict[str, Any] = {
        # Templates silently drop roles they do not know; "developer" is the newer name of "system".
        "role": "system" if role == "developer" else role,
        "content": _content(message.get("content")),
    }
    if role == "assistant":
        if calls := message.get("tool_calls"):
            converted["tool_calls"] = [
                _tool_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(calls)
            ]
        if reasoning := message.get("reasoning_content"):
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


def _tool_call(call: Mapping[str, Any], path: str) -> dict[str, Any]:
    function = call["function"]
    converted: dict[str, Any] = {
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": _arguments(function["arguments"], f"{path}.function.arguments"),
        },
    }
    if call.get("id") is not None:
        converted["id"] = call["id"]
    return converted


def _arguments(text: str, path: str) -> dict[str, Any]:
    """Decode arguments: OpenAI sends a JSON string, templates iterate over `.items()`."""
    if not text:
        return {}
    try:
        arguments = json.loads(text, parse_constant=_no_constant, parse_float=written_float)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"{path} is not valid JSON ({error}); send the arguments as a JSON object in a string.",
            param=path,
        ) from None
    if not isinstance(arguments, dict):
        raise InvalidRequestError(
            f"{path} is a JSON {type(arguments).__name__}; the arguments of a call must be a JSON object.",
            param=path,
        )
    return arguments


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
