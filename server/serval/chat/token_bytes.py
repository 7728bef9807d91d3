"""The bytes that each token stands for.

A token of a byte-level vocabulary may hold only part of a character; decoded by itself, it is U+FFFD. In the
vocabulary each byte is written as one printable character (GPT-2's rule).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from tokenizers import Tokenizer, decoders

if TYPE_CHECKING:
    from serval.chat.tokenizer import ControlToken

_PRINTABLE: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS: Final = tuple(byte for byte in range(0x100) if byte not in _PRINTABLE)
_BYTE_OF: Final = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + place): byte for place, byte in enumerate(_OTHERS)
}


class TokenBytes:
    """Looks up the bytes of tokens. Safe to use from several threads."""

    def __init__(self, plain: Tokenizer, control_tokens: "Iterable[ControlToken]") -> None:
        self._plain = plain
        self._is_byte_level = isinstance(plain.decoder, decoders.ByteLevel)
        self._control = {token.id: token for token in control_tokens}
        self.control_ids = frozenset(self._control)
        self._known: dict[int, bytes | None] = {}

    def control_text(self, token_id: int) -> str | None:
        """Return the text of a control token; None for any other token."""
        control = self._control.get(token_id)
        return None if control is None else control.content

    def is_special(self, token_id: int) -> bool:
        """Return True for control tokens that engines leave out of a text unless asked to keep them."""
        control = self._control.get(token_id)
        return control is not None and control.special

    def of(self, token_id: int) -> bytes | None:
        """Return the bytes of a token; None if the vocabulary does not tell them."""
        if token_id not in self._known:
            self._known[token_id] = self._read(token_id)
        return self._known[token_id]

    def _read(self, token_id: int) -> bytes | None:
        control = self._control.get(token_id)
        if control is not None:
            return control.content.encode()
        written = self._plain.id_to_token(token_id)
        if written is None:
            return None
        if not self._is_byte_level:
            text = self._plain.decode([token_id], skip_special_tokens=False)
            return None if "\ufffd" in text else text.encode()
        if all(character in _BYTE_OF for character in written):
            return bytes(_BYTE_OF[character] for character in written)
        return written.encode()  # an added token, such as a run of spaces
