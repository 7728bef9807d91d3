"""Sealed turns of the Responses API: continuing a conversation from its token ids, and sealing answers.

A sealed turn stands for everything up to the end of its answer: instructions, tools and items. It is the last
item of that answer. At the beginning of an input it is the only record of what came before. Behind other
items it is used if they are those that it was made of; otherwise they are rendered as usual.
"""

import asyncio
import time
from array import array
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct
from starlette.types import Scope

from serval.api.choice import ChoiceAssembler
from serval.api.context import ApiContext
from serval.api.edge import authorization_of
from serval.api.http import identity_of
from serval.api.responses_form import ResponsesForm
from serval.chat.sealed_turn import INVALID, PREFIX, ExpiredSealError, SealedTurn, TurnSealer
from serval.errors import InvalidRequestError
from serval.wire.responses.decode import DecodedResponses
from serval.wire.responses.items import PlacedItem, ReasoningItem, decode_items
from serval.wire.responses.sealed_history import (
    digest_of,
    in_place_of_history,
    is_of_the_model,
    items_digest,
)
from serval.wire.thinking import template_options

_INCLUDE: Final = "reasoning.encrypted_content"
_MISMATCH: Final = "encrypted_content_mismatch"
# Clients send all sealed items back: they may have this many times the size of a new one.
_CARRIED: Final = 4


def owner_of(scope: Scope) -> str:
    """Return the name of the caller that seals are bound to, the same on all replicas."""
    identity = identity_of(scope)
    if identity.key_id is not None:
        return identity.key_id
    # The operator's keys have no names but their places in a file, which may hold another key tomorrow.
    key = (authorization_of(scope) or "").partition(" ")[2].strip()
    return f"operator-{sha256(key.encode()).hexdigest()}"


class Continued(Struct, frozen=True):
    """The conversation that a request continues."""

    # Tokens that the conversation begins with, in place of items that have been removed.
    ids: "array[int] | None"
    head: bytes
    # Digest of the whole conversation.
    digest: bytes
    # Characters of all sealed items in the input.
    carried: int


def continued(context: ApiContext, decoded: DecodedResponses, subject: str) -> Continued | None:
    """Replace the items that a sealed turn stands for; None if the request has nothing to do with seals.

    Raises `InvalidRequestError` for sealed turns that were changed, are foreign or have expired, and for one
    without its history that the request does not fit.
    """
    items = decoded.items
    places = [index for index, placed in enumerate(items) if _sealed_text(placed)]
    sealer = context.sealer
    if sealer is None:
        if places and places[0] == 0:
            raise _unusable(items[0], "this server seals no turns (SERVAL_SEAL_SECRET)", INVALID)
        return None
    if not places and not asks_for_seal(decoded):
        return None
    head = _head(context, decoded)
    carried = sum(len(_sealed_text(items[place])) for place in places)
    truncates = decoded.request.truncation == "auto"
    used = _replaced(sealer, items, places, head, subject, truncates=truncates) if places else None
    if used is None:
        return Continued(None, head, items_digest(head, (placed.item for placed in items)), carried)
    turn, after = used
    return Continued(turn.ids, head, items_digest(turn.digest, (placed.item for placed in after)), carried)


def asks_for_seal(decoded: DecodedResponses) -> bool:
    """Return True if the client asks for sealed turns, and the answer can have one.

    Tools that a search has loaded are known from its items only, so those must be sent.
    """
    return _INCLUDE in (decoded.request.include or ()) and not decoded.tools.deferred


async def seal(
    answer_id: str,
    prompt_ids: "array[int]",
    assembler: ChoiceAssembler,
    *,
    sealer: TurnSealer,
    subject: str,
    before: Continued,
    form: ResponsesForm,
) -> None:
    """Give the answer a sealed item, if it is whole and all its tokens are known."""
    choice, ids = assembler.answer(), assembler.turn_ids()
    if ids is None:
        return
    items = form.items(answer_id, choice)
    # Its output may name the item's id, which a seal does not hold.
    if any(item["type"] == "local_shell_call" for item in items):
        return

    def work() -> str:
        written = decode_items([msgspec.Raw(msgspec.json.encode(item)) for item in items], "output")
        digest = items_digest(before.digest, (placed.item for placed in written))
        calls = [call.id for call in choice.tool_calls]
        turn = SealedTurn(prompt_ids + ids, before.head, digest, calls)
        return sealer.seal(turn, subject=subject, now=time.time())

    sealed = await asyncio.to_thread(work)
    if before.carried <= _CARRIED * len(sealed):
        form.sealed = sealed


def _replaced(
    sealer: TurnSealer,
    items: list[PlacedItem],
    places: Sequence[int],
    head: bytes,
    subject: str,
    *,
    truncates: bool,
) -> tuple[SealedTurn, list[PlacedItem]] | None:
    """Put items of the same calls in place of what the newest fitting sealed turn stands for.

    If the request `truncates`, items that are there stay, because tokens cannot be cut at turns.
    Return the turn, and the items behind it.
    """
    first = _opened(sealer, items[0], subject) if places[0] == 0 else None
    if first is not None and first.head != head:
        raise _unusable(items[0], "instructions, tools and options must be those it was made with")
    last = places[-1]
    used, place = first, 0
    if last > 0 and not truncates:
        turn = _opened(sealer, items[last], subject, may_expire=True)
        before = head if first is None else first.digest
        said = (placed.item for placed in items[0 if first is None else 1 : last])
        fits = turn is not None and turn.head == head and items_digest(before, said) == turn.digest
        if fits and not _goes_on(items, last):
            used, place = turn, last
    if used is None:
        return None
    if _goes_on(items, place):
        raise _unusable(items[place], "items of the model cannot follow it")
    after = items[place + 1 :]
    items[: place + 1] = in_place_of_history(used.calls, items[place].path)
    return used, after


def _opened(
    sealer: TurnSealer, placed: PlacedItem, subject: str, *, may_expire: bool = False
) -> SealedTurn | None:
    param = f"{placed.path}.encrypted_content"
    try:
        return sealer.open(_sealed_text(placed), subject=subject, now=time.time(), param=param)
    except ExpiredSealError:
        if may_expire:
            return None
        raise


def _goes_on(items: Sequence[PlacedItem], place: int) -> bool:
    return place + 1 < len(items) and is_of_the_model(items[place + 1].item)


def _sealed_text(placed: PlacedItem) -> str:
    """Return the sealed turn of this server's kind in the item; "" if there is none."""
    item = placed.item
    text = item.encrypted_content if isinstance(item, ReasoningItem) else None
    return text if text is not None and text.startswith(PREFIX) else ""


def _head(context: ApiContext, decoded: DecodedResponses) -> bytes:
    chat = decoded.chat
    options = template_options(chat, context.chat.template_variables)
    tools = None if chat.tool_choice == "none" else chat.tools
    parts = [decoded.request.instructions or "", tools or [], options]
    # A seal may hold a truncated conversation, which stands for the whole one only where that is asked for.
    return digest_of([*parts, "auto"] if decoded.request.truncation == "auto" else parts)


def _unusable(placed: PlacedItem, reason: str, code: str = _MISMATCH) -> InvalidRequestError:
    param = f"{placed.path}.encrypted_content"
    return InvalidRequestError(
        f"The sealed turn at {param} cannot be continued: {reason}. Send the whole conversation as items.",
        param=param,
        code=code,
    )
