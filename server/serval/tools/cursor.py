"""Finding markers in text that arrives in pieces."""

from __future__ import annotations

import re

_NOT_WHITE = re.compile(r"\S")


class MarkerSet:
    """Finds the first of several markers, even if the text so far ends inside one.

    All markers longer than one character begin with the same character and contain it nowhere else, so an
    unfinished marker can only start at its last occurrence.
    """

    __slots__ = ("_longest", "_prefixes", "_start", "pattern")

    def __init__(self, *markers: str) -> None:
        starts = {marker[0] for marker in markers if len(marker) > 1}
        if len(starts) != 1 or any(marker.count(start) > 1 for start in starts for marker in markers):
            raise ValueError(f"markers must begin with one character that they hold only there: {markers}")
        self._start = starts.pop()
        self.pattern = re.compile("|".join(map(re.escape, markers)))
        self._prefixes = frozenset(marker[:end] for marker in markers for end in range(1, len(marker)))
        self._longest = max(map(len, markers)) - 1

    def match(self, text: str, start: int) -> str | None:
        """Return the marker that begins exactly at `start`."""
        found = self.pattern.match(text, start)
        return found.group() if found else None

    def unfinished_from(self, text: str, start: int) -> int:
        """Return where an unfinished marker at the end of `text` begins; `len(text)` if there is none."""
        size = len(text)
        last = text.rfind(self._start, start if size - start < self._longest else size - self._longest)
        return last if last >= 0 and text[last:] in self._prefixes else size


class Cursor:
    """Text not yet consumed. Only an unfinished marker stays between pieces, so `extend` is cheap."""

    __slots__ = ("position", "text")

    def __init__(self) -> None:
        self.text = ""
        self.position = 0

    def extend(self, piece: str) -> None:
        """Append a piece and forget the consumed text."""
        self.text = self.text[self.position :] + piece if self.position < len(self.text) else piece
        self.position = 0

    def take_until(self, end: int) -> str:
        """Consume up to `end` (an index into `text`) and return the consumed text."""
        taken = self.text[self.position : end]
        self.position = end
        return taken

    def take_whitespace(self) -> str:
        """Consume the whitespace at the cursor and return it."""
        found = _NOT_WHITE.search(self.text, self.position)
        return self.take_until(found.start() if found else len(self.text))

    def take_text(self, markers: MarkerSet) -> tuple[str, str | None]:
        """Consume and return the text before the first of `markers`, and that marker.

        If no marker is complete: the text up to where one may begin, and None.
        """
        text, start = self.text, self.position
        found = markers.pattern.search(text, start)
        if found is not None:
            self.position = found.end()
            return text[start : found.start()], found.group()
        self.position = markers.unfinished_from(text, start)
        return text[start : self.position] if start or self.position < len(text) else text, None

    def take_rest(self) -> str:
        """Consume and return everything."""
        return self.take_until(len(self.text))

    def step_back(self, taken: str) -> None:
        """Put back text that was just consumed. Copies only what arrived in earlier pieces."""
        if len(taken) <= self.position:
            self.position -= len(taken)
        else:
            self.extend("")
            self.text = taken + self.text

    @property
    def at_end(self) -> bool:
        return self.position >= len(self.text)
