"""Comparing the prompts of two requests: where they part, the prefix cache ends for the second one."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from serval.api.prompt import declaration_of, declared_tools
from serval.chat import ChatRenderer, RenderedPrompt
from serval.chat.prompt_history import shared_length
from serval.errors import ApiError, ServalError
from serval.wire.chat_decode import decode_chat_request
from serval.wire.chat_request import ChatRequest
from serval.wire.messages.decode import Reading, decode_messages_request
from serval.wire.prompt_texts import prompt_texts, text_at
from serval.wire.responses.decode import add_messages, decode_responses_request
from serval.wire.thinking import template_options

# Characters of the prompts that are shown before and behind the place where they part.
_BEFORE = 32
_BEHIND = 48
_MAX_CHOICES = 128


def compared(renderer: ChatRenderer, first: Path, second: Path) -> str:
    """Return what is to be said about the prompts of two files, each the JSON body of a request.

    Raises `ServalError`, naming the file, for one that cannot be rendered.
    """
    bodies = [_body(path) for path in (first, second)]
    before, after = (
        _rendered(renderer, body, path) for body, path in zip(bodies, (first, second), strict=True)
    )
    same = shared_length(before.input_ids, after.input_ids)
    lines = [f"{same} of {len(after.input_ids)} tokens of {second} are found after {first}"]
    place = shared_length(before.text, after.text)
    if place in (len(before.text), len(after.text)):
        return lines[0]
    path, character = text_at(after.text, place, prompt_texts(bodies[1])) or ("prompt", place)
    lines.append(f"they part at {path}, character {character}:")
    begin = max(0, place - _BEFORE)
    for text, name in ((before.text, first), (after.text, second)):
        shown = json.dumps(text[begin : place + _BEHIND], ensure_ascii=False)
        lines.append(f"  {shown}  {name}")
    return "\n".join(lines)


def _body(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise ServalError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise ServalError(f"{path} is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ServalError(f"{path} does not hold a JSON object, the body of a request")
    return body


def _request(renderer: ChatRenderer, body: Mapping[str, Any]) -> ChatRequest:
    """Decode the body by the API that it is written for. Raises `ApiError`."""
    encoded = msgspec.json.encode({"model": "", **body})
    declare = partial(declaration_of, renderer)
    if "input" in body:
        decoded = decode_responses_request(encoded, strict=False)
        add_messages(decoded, non_text_parts="omit", declare=declare)
        return decoded.chat
    if not _is_of_messages(body):
        return decode_chat_request(encoded, max_choices=_MAX_CHOICES, strict=False, non_text_parts="omit")
    reading = Reading(
        strict_fields=False,
        non_text_parts="omit",
        render_billing_block=False,
        declaration_of=declare,
    )
    return decode_messages_request(encoded, reading).request


def _is_of_messages(body: Mapping[str, Any]) -> bool:
    """Return True for a body of the Messages API that Chat Completions would read differently."""
    if "system" in body or any("input_schema" in tool for tool in _objects(body.get("tools"))):
        return True
    parts = (part for message in _objects(body.get("messages")) for part in _objects(message.get("content")))
    return any(part.get("type") in ("tool_use", "tool_result", "thinking") for part in parts)


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _rendered(renderer: ChatRenderer, body: Mapping[str, Any], path: Path) -> RenderedPrompt:
    try:
        request = _request(renderer, body)
        return renderer.render(
            msgspec.to_builtins(request.messages),
            tools=declared_tools(request),
            options=template_options(request, renderer.template_variables),
            continued=bool(request.continue_final_message),
        )
    except ApiError as error:
        raise ServalError(f"{path} cannot be rendered: {error}") from error
