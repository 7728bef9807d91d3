"""The older dialect of LongCat-Flash-Chat: `{"name": ..., "arguments": {...}}` between the call markers."""

import enum
import re
from typing import Any

from serval.schema import strict_json
from serval.tools.markers import TOOL_CALL_CLOSE, Cursor

_OUTSIDE = re.compile(r'["\\<{}\[\]]')
_INSIDE = re.compile(r'["\\]')


class ScanResult(enum.Enum):
    MORE = enum.auto()
    """The object may go on."""
    WHOLE = enum.auto()
    """The brackets are balanced: `text` is the object."""
    BROKEN = enum.auto()
    """This cannot become JSON; the cursor is at the character that shows it."""


class JsonObjectScanner:
    """Finds the end of a JSON object. A marker inside a string is data.

    Outside strings `<` and `\\` are no part of JSON. So if two scans ever cover the same text, one is inside
    a string exactly where the other is outside, and no text is covered three times: scanning again after a
    broken block stays linear.
    """

    __slots__ = ("_depth", "_escaped", "_in_string", "_pieces")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def scan(self, cursor: Cursor) -> ScanResult:
        """Read on from the cursor, which at first stands at the opening bracket."""
        text, position = cursor.text, cursor.position
        result = ScanResult.MORE
        while result is ScanResult.MORE and position < len(text):
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            found = (_INSIDE if self._in_string else _OUTSIDE).search(text, position)
            if found is None:
                position = len(text)
                break
            position = found.end()
            result = self._read(found.group())
        if result is ScanResult.BROKEN:
            position -= 1
        self._pieces.append(cursor.take_until(position))
        return result

    def _read(self, character: str) -> ScanResult:
        if character == '"':
            self._in_string = not self._in_string
        elif self._in_string:
            self._escaped = True
        elif character in "<\\":
            return ScanResult.BROKEN
        else:
            self._depth += 1 if character in "{[" else -1
        return ScanResult.WHOLE if self._depth == 0 and not self._in_string else ScanResult.MORE

    def text_after_first_close(self) -> str | None:
        """What follows the first closing marker in a block that turned out broken; None if it has none."""
        _, marker, after = self.text.partition(TOOL_CALL_CLOSE)
        return after if marker else None


def read_call(text: str) -> tuple[str, str] | None:
    """Name and arguments (a JSON object) of the call that `text` is; None if it is no call.

    Arguments may be an object, an object in a string (OpenAI's wire form), or missing.
    """
    try:
        call = strict_json.decode(text)
        arguments = call.get("arguments", call.get("parameters", {})) if isinstance(call, dict) else None
        if isinstance(arguments, str):
            arguments = strict_json.decode(arguments)
    except strict_json.InvalidJsonError:
        return None
    name: Any = call.get("name") if isinstance(call, dict) else None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return name, strict_json.encode(arguments)
