"""Encoding a long text piece by piece: memory does not grow with its length, and a limit ends the work early.

The tokenizers library needs a few hundred bytes for each byte of a text. Tokens never reach across the words
that the tokenizer's pattern cuts a text into, and the pattern is matched from left to right. So a text is
encoded in windows that begin where a word begins, which gives the same tokens as the whole text. A window's
last words are left to the next window, because with more text to come they could be cut differently.
"""

from array import array

from tokenizers import Encoding, Tokenizer

# In characters. The margin must be longer than what a pattern looks at beyond a word.
WINDOW = 1 << 16
MARGIN = 1 << 10


class TokenLimitError(Exception):
    """A text has more tokens than it may have. It was not encoded to its end."""


def encode_long(
    plain: Tokenizer, text: str, *, limit: int, window: int = WINDOW, margin: int = MARGIN
) -> "array[int]":
    """Encode any text, `window` characters at a time.

    A word longer than a window is cut at the window's end, so that its tokens may differ there from those of
    the whole word. Raises `TokenLimitError` at more than `limit` tokens, and what the library raises for a
    text that is not valid Unicode.
    """
    ids = array("I")
    start = 0
    while True:
        piece = text[start : start + window]
        is_last = start + window >= len(text)
        encoding = _encode(plain, piece)
        kept = len(encoding.ids)
        if not is_last:
            kept, length = _whole_words(encoding, window - margin)
            if not length:
                length = window - margin
                encoding = _encode(plain, piece[:length])
                kept = len(encoding.ids)
            start += length
        ids.extend(encoding.ids[:kept])
        if len(ids) > limit:
            raise TokenLimitError
        if is_last:
            return ids


def can_be_cut(plain: Tokenizer) -> bool:
    """Return False for a tokenizer that treats the beginning of a text differently, as by adding a space."""
    ids = _encode(plain, "x").ids
    return plain.decode([*ids, *ids], skip_special_tokens=False) == "xx"


def longest_token(plain: Tokenizer, *, without: frozenset[int]) -> int:
    """Return the most characters that one token can stand for; the ids `without` do not count.

    A vocabulary writes each byte of a token as at least one character.
    """
    return max(
        (len(text) for text, token_id in plain.get_vocab().items() if token_id not in without), default=1
    )


def _encode(plain: Tokenizer, text: str) -> Encoding:
    # Unlike `encode`, `encode_batch` lets other threads run meanwhile.
    return plain.encode_batch([text], add_special_tokens=False)[0]


def _whole_words(encoding: Encoding, end: int) -> tuple[int, int]:
    """Return the number of tokens, and of characters, before the word at the character `end`."""
    token = encoding.char_to_token(end)
    word = None if token is None else encoding.token_to_word(token)
    tokens = None if word is None else encoding.word_to_tokens(word)
    if word is None or tokens is None:
        return 0, 0
    chars = encoding.word_to_chars(word)
    return (0, 0) if chars is None else (tokens[0], chars[0])
