"""Items of a conversation in the Responses API: their types, and decoding each by its type."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from serval.errors import InvalidRequestError
from serval.wire.decode import decode_json, invalid_value


class Part(Struct):
    """A part of a content. Data of images and files is not declared, so it is never decoded."""

    type: str
    text: str | None = None
    refusal: str | None = None


class MessageItem(Struct):
    """A message of any role; a list of parts or a text."""

    role: str
    content: str | list[Part] | None = None


class AgentMessageItem(Struct):
    """A message of another agent of the client (Codex). The model reads it as a user's."""

    content: str | list[Part] | None = None


class CallItem(Struct):
    """A call of a function; `arguments` is text, usually JSON. One that was cut is `incomplete`."""

    call_id: str
    name: str
    arguments: str
    namespace: str | None = None
    status: str | None = None


class CustomCallItem(Struct):
    """A call of a custom tool, whose one argument is a text."""

    call_id: str
    name: str
    input: str
    namespace: str | None = None
    status: str | None = None


class OutputItem(Struct):
    """The result of a call of any kind."""

    call_id: str
    output: str | list[Part]


class ReasoningItem(Struct):
    """The model's thoughts, or a sealed turn in `encrypted_content`. That of other servers is not read."""

    content: list[Part] | None = None
    encrypted_content: str | None = None


class ToolSearchCallItem(Struct):
    """A search for tools; without `call_id`, one that a server ran itself."""

    arguments: msgspec.Raw
    call_id: str | None = None
    status: str | None = None


class ToolSearchOutputItem(Struct):
    """The tools that a search has loaded."""

    tools: list[msgspec.Raw]
    call_id: str | None = None


class LocalShellCallItem(Struct):
    """A command for the client's shell."""

    action: dict[str, Any]
    call_id: str | None = None
    id: str | None = None
    status: str | None = None


class LocalShellOutputItem(Struct):
    """The output of a command; `id` is that of the call."""

    output: str
    call_id: str | None = None
    id: str | None = None


Item = (
    MessageItem
    | AgentMessageItem
    | CallItem
    | CustomCallItem
    | OutputItem
    | ReasoningItem
    | ToolSearchCallItem
    | ToolSearchOutputItem
    | LocalShellCallItem
    | LocalShellOutputItem
)

ITEM_TYPES: Final[Mapping[str, type[Item]]] = {
    "message": MessageItem,
    "agent_message": AgentMessageItem,
    "function_call": CallItem,
    "function_call_output": OutputItem,
    "custom_tool_call": CustomCallItem,
    "custom_tool_call_output": OutputItem,
    "reasoning": ReasoningItem,
    "tool_search_call": ToolSearchCallItem,
    "tool_search_output": ToolSearchOutputItem,
    "local_shell_call": LocalShellCallItem,
    "local_shell_call_output": LocalShellOutputItem,
}
# Leaving these out would lose a part of the conversation that the model must know.
_UNREADABLE: Final[Mapping[str, str]] = {
    "item_reference": "this server keeps no items by their id; send the item itself, or previous_response_id",
    "compaction": "only the server that made it can read it; send the conversation, or a summary as text",
    "compaction_summary": "only the server that made it can read it; send a summary as a message",
}


class PlacedItem(Struct, frozen=True):
    """An item, and its path in the request for errors."""

    path: str
    item: Item


class _Head(Struct):
    type: str | None = None
    role: str | None = None


_head_decoder: "msgspec.json.Decoder[_Head]" = msgspec.json.Decoder(_Head)
_decoders: Final[Mapping[str, "msgspec.json.Decoder[Item]"]] = {
    name: msgspec.json.Decoder(kind) for name, kind in ITEM_TYPES.items()
}


def decode_items(items: Sequence[msgspec.Raw], path: str) -> list[PlacedItem]:
    """Decode the items of the list at `path`.

    Items of other types are left out: they are what hosted tools of other servers did. Raises
    `InvalidRequestError` with the path of the field at fault.
    """
    placed = []
    for index, raw in enumerate(items):
        below = f"{path}[{index}]"
        item = _decode_item(raw, below)
        if item is not None:
            placed.append(PlacedItem(below, item))
    return placed


def _decode_item(raw: msgspec.Raw, path: str) -> Item | None:
    head = decode_json(_head_decoder, raw, below=path)
    kind = head.type
    if kind is None:
        if head.role is None:
            raise invalid_value("an item needs a type, or a role", path, code="missing_required_parameter")
        kind = "message"
    if kind in _UNREADABLE:
        raise InvalidRequestError(
            f"{path} is an item of type {kind!r}, which is not served here: {_UNREADABLE[kind]}.",
            param=f"{path}.type",
            code="unsupported_value",
        )
    decoder = _decoders.get(kind)
    return None if decoder is None else decode_json(decoder, raw, below=path)
