"""Rendering turns of the model with the tokens that it wrote itself, in place of their text and calls."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serval.chat.template import ChatTemplate
from serval.chat.tokenizer import ControlToken, OwnTokens, Piece
from serval.errors import InvalidRequestError

_USER: Final = {"role": "user", "content": "x"}
_TOOL: Final = {
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}},
}
_CALL: Final = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}


def end_of_turn(template: ChatTemplate, own: OwnTokens) -> ControlToken | None:
    """Return the token that ends a turn of the model; None if the template writes turns in another form.

    A turn must begin the same with and without calls, and end with one token behind text and calls. `own` are
    any tokens.
    """
    turn: dict[str, Any] = {"role": "assistant", "content": template.own_text(0)}
    try:
        plain, called = (
            template.render([_USER, message, _USER], tools=None, own=[own])
            for message in (turn, turn | {"tool_calls": [_CALL]})
        )
    except InvalidRequestError:
        return None
    if own not in plain or own not in called:
        return None
    behind = [piece for piece in plain[plain.index(own) + 1 :] if piece]
    if not behind or not isinstance(behind[0], ControlToken):
        return None
    return behind[0] if without_calls(called, behind[0]) == without_calls(plain, behind[0]) else None


def can_continue(template: ChatTemplate, own: OwnTokens) -> bool:
    """Return True if tokens can stand for the beginning of any conversation.

    A prompt, the answer and the rest must follow each other as they are, and the rest must not depend on what
    came before. `own` are any tokens; `end_of_turn` has found a token for the template.
    """
    turn = {"role": "assistant", "content": template.own_text(0)}
    short = [_USER, turn, _USER]
    long = [{"role": "system", "content": "y"}, _USER, {"role": "assistant", "content": "z"}, *short]
    for tools in (None, [_TOOL]):
        try:
            prompt, *whole = (
                [piece for piece in template.render(messages, tools=tools, own=[own]) if piece]
                for messages in ([_USER], short, long)
            )
        except InvalidRequestError:
            return False
        (before, rest), (_, other_rest) = (
            (pieces[: pieces.index(own)], pieces[pieces.index(own) :]) for pieces in whole
        )
        if before != prompt or rest != other_rest:
            return False
    return True


def with_own_texts(
    messages: Sequence[Mapping[str, Any]], indexes: Sequence[int], template: ChatTemplate
) -> list[Mapping[str, Any]]:
    """Return the messages with the template's `own_text` as content of those at `indexes`, in that order."""
    changed = list(messages)
    for number, index in enumerate(indexes):
        # The calls stay, without arguments: a template may ask whether there are any.
        calls = [
            {**call, "function": {**call["function"], "arguments": {}}}
            for call in messages[index].get("tool_calls", ())
        ]
        text = {"content": template.own_text(number)}
        changed[index] = {**messages[index], **text, **({"tool_calls": calls} if calls else {})}
    return changed


def without_calls(pieces: Sequence[Piece], end: ControlToken) -> list[Piece]:
    """Return the pieces without those between own tokens and the `end` of their turn."""
    kept: list[Piece] = []
    skipping = False
    for piece in pieces:
        skipping = skipping and piece != end
        if not skipping:
            kept.append(piece)
        skipping = skipping or isinstance(piece, OwnTokens)
    return kept
