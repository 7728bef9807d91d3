"""Comparing the text of an answer with its token ids, as both arrive in pieces.

The engine decodes the ids. Its text alone leaves two things open: whether a control token or ordinary
tokens wrote the text of a marker, and whether U+FFFD at the end is a character that the model wrote, or the
beginning of one that is incomplete.
"""

import codecs
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from serval.chat.token_bytes import TokenBytes

_REPLACEMENT: Final = "\ufffd"
# Tokens that hold the last character, whose bytes are at most four; hidden ones may stand between them.
_LAST_TOKENS: Final = 8
_FORGET_AT: Final = 256


class MarkerPlaces:
    """Finds the places in a text at which control tokens stand, however text and ids are cut into pieces.

    The text holds special tokens too; ids may be ahead of it, never behind it.
    """

    def __init__(self, tokens: TokenBytes, markers: Collection[str]) -> None:
        """`markers`: the control tokens to find. Other special tokens are taken out of the text."""
        self._tokens = tokens
        self._markers = markers
        # Tokens after the last control token, whose characters are not counted yet.
        self._ids: list[int] = []
        self._counted = 0
        self._read = 0
        # Control tokens that the text has not reached: place in the whole text, and id.
        self._ahead: deque[tuple[int, int]] = deque()
        # Place in the whole text up to which a control token's text is left out.
        self._left_out = 0
        self._lost = False

    def add(self, text: str, token_ids: Sequence[int] | None) -> tuple[str, list[int] | None]:
        """Return the next piece of text, and the places in it at which markers begin.

        The places are None if they are unknown from here on, because the engine reported no ids or because
        they do not fit the text.
        """
        start = self._read
        self._read += len(text)
        if token_ids is None or self._lost:
            self._lost = True
            return text, None
        self._count(token_ids)
        if self._left_out <= start and (not self._ahead or self._ahead[0][0] >= self._read):
            return text, None if self._lost else []
        return self._marked(text, start)

    def _marked(self, text: str, start: int) -> tuple[str, list[int] | None]:
        kept: list[str] = []
        length = 0
        done = max(0, self._left_out - start)
        places: list[int] = []
        while self._ahead and self._ahead[0][0] < self._read:
            place, token_id = self._ahead.popleft()
            name = self._tokens.control_text(token_id) or ""
            begin, end = place - start, place - start + len(name)
            # The piece may end inside the name.
            if not name.startswith(text[begin:end]):
                self._lost = True
                break
            kept.append(text[done:begin])
            length += begin - done
            done = begin
            if name in self._markers:
                places.append(length)
            elif self._tokens.is_special(token_id):
                done = end
                self._left_out = start + end
        return "".join((*kept, text[done:])), None if self._lost else places

    def _count(self, token_ids: Sequence[int]) -> None:
        """Find the places of control tokens among the new ids."""
        if self._tokens.control_ids.isdisjoint(token_ids):
            self._ids += token_ids
            return
        for token_id in token_ids:
            name = self._tokens.control_text(token_id)
            if name is None:
                self._ids.append(token_id)
                continue
            characters = self._characters()
            if characters is None:
                self._lost = True
                return
            self._ids.clear()
            self._ahead.append((self._counted + characters, token_id))
            self._counted += characters + len(name)

    def _characters(self) -> int | None:
        """Return the number of characters of the tokens not yet counted; None if one is unknown."""
        parts = [self._tokens.of(token_id) for token_id in self._ids]
        known = [part for part in parts if part is not None]
        return len(b"".join(known).decode(errors="replace")) if len(known) == len(parts) else None


class WholeCharacters:
    """Takes an incomplete character off the end of an answer, where the engine writes U+FFFD for it."""

    def __init__(self, tokens: TokenBytes) -> None:
        self._tokens = tokens
        self._last: list[int] = []

    def add(self, text: str, token_ids: Sequence[int] | None, *, is_last: bool) -> str:
        """Return the next piece of text; the last one without an incomplete character at its end."""
        if token_ids:
            self._last += token_ids
            if len(self._last) > _FORGET_AT:
                del self._last[:-_LAST_TOKENS]
        if is_last and text.endswith(_REPLACEMENT) and self._ends_inside_character():
            return text.removesuffix(_REPLACEMENT)
        return text

    def _ends_inside_character(self) -> bool:
        # Only a character that begins in these tokens counts: bytes before them may be missing.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(b"".join(self._tokens.of(token_id) or b"" for token_id in self._last[-_LAST_TOKENS:]))
        return bool(decoder.getstate()[0])
