"""Quoted markers: the text of a marker that the model wrote in ordinary tokens.

Readers search text for markers. The first character of a quoted one is exchanged for one that no text holds,
so that readers do not find it; it is changed back where text leaves the parser.
"""

from collections.abc import Sequence
from typing import Final

# A lone surrogate, which the parser removes from all text that it is given. It stands for "<", with which
# every marker begins.
QUOTED: Final = "\udc3c"
_START: Final = "<"


def quote(text: str, places: Sequence[int]) -> str:
    """Exchange every "<" of `text` that is not at one of `places`, which are in order."""
    pieces: list[str] = []
    begin = 0
    for place in places:
        pieces += (text[begin:place].replace(_START, QUOTED), text[place : place + 1])
        begin = place + 1
    return "".join((*pieces, text[begin:].replace(_START, QUOTED)))


def unquote(text: str) -> str:
    """Change the exchanged characters back."""
    return text.replace(QUOTED, _START)
