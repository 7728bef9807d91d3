"""The items of a conversation that a sealed turn stands for: comparing and replacing them."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from serval.wire.responses.items import (
    CallItem,
    CustomCallItem,
    Item,
    LocalShellCallItem,
    MessageItem,
    Part,
    PlacedItem,
    ReasoningItem,
    ToolSearchCallItem,
)

_CALLS: Final = (CallItem, CustomCallItem, ToolSearchCallItem, LocalShellCallItem)
# Sorted, because clients may write the fields of an object in another order.
_encode = msgspec.json.Encoder(order="sorted").encode


def digest_of(value: Any) -> bytes:
    """Return a digest of anything that can be written as JSON."""
    return sha256(_encode(value)).digest()


def items_digest(before: bytes, items: Iterable[Item]) -> bytes:
    """Return the digest of a conversation: of what came before, and of `items` as far as the prompt has them.

    Clients send the items of an answer back without ids and status; neither is part of the digest.
    """
    for item in items:
        said = _said(item)
        if said is not None:
            before = sha256(before + _encode([type(item).__name__, said])).digest()
    return before


def is_of_the_model(item: Item) -> bool:
    """Return True if the item continues a turn of the model."""
    return isinstance(item, _CALLS) or (isinstance(item, MessageItem) and item.role == "assistant")


def in_place_of_history(calls: Sequence[str], path: str) -> list[PlacedItem]:
    """Return items with a user's turn and a turn of the model that has these calls, by their ids.

    The walk of the items behind them needs the calls, to put their results in order.
    """
    made: list[Item] = [CallItem(call_id, "call", "{}") for call_id in calls]
    made = made or [MessageItem("assistant", "answer")]
    return [PlacedItem(path, item) for item in (MessageItem("user", "question"), *made)]


def _said(item: Item) -> Any:
    if isinstance(item, MessageItem):
        parts = [Part("input_text", item.content)] if isinstance(item.content, str) else item.content
        return [
            item.role,
            [[part.text, part.refusal, part.text is None and part.type] for part in parts or ()],
        ]
    if isinstance(item, ReasoningItem):
        return [part.text for part in item.content or () if part.text] or None
    if isinstance(item, LocalShellCallItem):
        return replace(item, status=None, id=None if item.call_id is not None else item.id)
    return replace(item, status=None) if isinstance(item, _CALLS) else item
