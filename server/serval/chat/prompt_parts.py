"""Structure of a rendered prompt, as far as the choice of an engine needs it."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from serval.chat.tokenizer import ControlToken, Piece

# A template may write a role's name around a message's text, but not much more.
_AROUND = 64


class PromptParts(Struct, frozen=True):
    """Lengths of beginnings of a prompt, in tokens. Later turns of the conversation begin alike."""

    # System prompt and tools: everything before the first user message.
    shared: int
    # All up to the end of the first user message.
    first_turn: int
    # Prompt of the turn before: all up to where the model's previous answer began; 0 if there was none.
    earlier: int


def parts_of(
    messages: Sequence[Mapping[str, Any]], pieces: Sequence[Piece], ends: Sequence[int]
) -> PromptParts | None:
    """Return the parts of the prompt rendered as `pieces`; None if the template does not tell them.

    `messages` are the template's; `ends` has the number of tokens up to each control token of `pieces`,
    inclusive. The first user message is known by its text between two control tokens.
    """
    first = next((message["content"] for message in messages if message["role"] == "user"), None)
    opening = None if first is None else _opening_of(first, pieces)
    if opening is None or opening + 1 >= len(ends):
        return None
    return PromptParts(
        # The control token before the text belongs to the message.
        shared=ends[opening] - 1,
        first_turn=ends[opening + 1] - 1,
        earlier=_earlier(pieces, ends),
    )


def _opening_of(content: str, pieces: Sequence[Piece]) -> int | None:
    """Return the index of the control token before the text `content`, among the control tokens."""
    text, before, found = content.strip(), -1, None
    for piece in pieces:
        if isinstance(piece, ControlToken):
            before += 1
        elif isinstance(piece, str) and before >= 0 and text in piece:
            if len(piece.strip()) == len(text):
                return before
            if found is None and len(piece) <= len(content) + _AROUND:
                found = before
    return found


def _earlier(pieces: Sequence[Piece], ends: Sequence[int]) -> int:
    """Return the length of the prompt that ended with the same control token as this one."""
    last, number = None, len(ends)
    for piece in reversed(pieces):
        if isinstance(piece, ControlToken):
            number -= 1
            if last is None:
                last = piece.id
            elif piece.id == last:
                return ends[number]
    return 0
