"""OpenAI messages and tools, brought into the form chat templates read.

Templates index into what they are given and fail, or print Python literals, on what the OpenAI format allows:
content as a list of parts, arguments as a JSON string, a tool without a description. Everything of that kind
is settled here.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from serval.chat.as_written import written_float
from serval.errors import InvalidRequestError

ROLES = ("system", "developer", "user", "assistant", "tool")


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them. Raises `InvalidRequestError` naming the message at fault."""
    if not messages:
        raise InvalidRequestError("'messages' is empty; send at least one message.", param="messages")
    converted = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    if converted[0]["role"] == "tool":
        raise InvalidRequestError(
            "The first message has role 'tool', but a tool result must follow the assistant message that"
            " called"
            " the tool.",
            param="messages[0].role",
        )
    return _in_call_order(converted)


def template_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Tool declarations as chat templates expect them: every function has a description and parameters."""
    return [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools or ())]


def _tool(tool: Mapping[str, Any], path: str) -> dict[str, Any]:
    kind = tool.get("type", "function")
    function = tool.get("function")
    if kind != "function" or not isinstance(function, Mapping):
        raise InvalidRequestError(
            f"{path} must be of the form {{'type': 'function', 'function': {{'name': ...}}}}, got type"
            f" {kind!r}"
            f"{'' if isinstance(function, Mapping) else ' and no function'}.",
            param=f"{path}.function" if kind == "function" else f"{path}.type",
        )
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequestError(f"{path}.function has no name.", param=f"{path}.function.name")
    parameters = function.get("parameters")
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": function.get("description") or "",
            "parameters": {"type": "object", "properties": {}} if parameters is None else parameters,
        },
    }


def _message(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequestError(
            f"{path}.role is {role!r}; it must be one of {', '.join(map(repr, ROLES))}.", param=f"{path}.role"
        )
    converted: dict[str, Any] = {
        # Templates drop roles they do not know without a word; developer is the newer name of system.
        "role": "system" if role == "developer" else role,
        "content": _content(message.get("content"), f"{path}.content"),
    }
    if role == "assistant":
        if calls := message.get("tool_calls"):
            converted["tool_calls"] = [
                _tool_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(calls)
            ]
        if reasoning := message.get("reasoning_content"):
            converted["reasoning_content"] = reasoning
    for name in ("name", "tool_call_id", "files"):
        if message.get(name) is not None:
            converted[name] = message[name]
    return converted


def _content(content: Any, path: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InvalidRequestError(f"{path} must be a string or a list of parts.", param=path)
    # Parts are separate pieces of text: joined without a separator, their words would run together.
    return "\n".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("text", "refusal"):
        raise InvalidRequestError(
            f"{path} has type {kind!r}; this model takes text only: send parts of type 'text'.",
            param=f"{path}.type",
        )
    text = part.get(kind)
    if not isinstance(text, str):
        raise InvalidRequestError(f"{path}.{kind} must be a string.", param=f"{path}.{kind}")
    return text


def _tool_call(call: Mapping[str, Any], path: str) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(
            f"{path}.function must have a name and arguments.", param=f"{path}.function"
        )
    converted: dict[str, Any] = {
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": _arguments(function.get("arguments"), f"{path}.function.arguments"),
        },
    }
    if call.get("id") is not None:
        converted["id"] = call["id"]
    return converted


def _arguments(arguments: Any, path: str) -> Mapping[str, Any]:
    """Arguments as a mapping: the OpenAI wire form is a JSON string, the templates walk over `.items()`."""
    if arguments is None or arguments == "":
        return {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, parse_constant=_no_constant, parse_float=written_float)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(
                f"{path} is not valid JSON ({error}); send the arguments as a JSON object in a string.",
                param=path,
            ) from None
    if not isinstance(arguments, Mapping):
        raise InvalidRequestError(
            f"{path} is a JSON {type(arguments).__name__}; the arguments of a call must be a JSON object.",
            param=path,
        )
    return arguments


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _in_call_order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort each run of tool results by the calls they answer.

    The template prints neither call ids nor tool names, so the order is all that links a result to its call.
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
