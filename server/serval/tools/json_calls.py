"""Calls in the format of LongCat-Flash-Chat: `{"name": ..., "arguments": {...}}` between call markers."""

import enum
import re
from typing import Any, Final

from serval.schema import strict_json
from serval.tools.cursor import Cursor, MarkerSet
from serval.tools.declared_tools import DeclaredTools
from serval.tools.markers import END_OF_TURN, THINK_CLOSE, THINK_OPEN, TOOL_CALL_CLOSE, TOOL_CALL_OPEN
from serval.tools.quoted import unquote
from serval.tools.reply_format import CallProgress, ReplyFormat
from serval.tools.sink import EventSink

_BLOCK_END = MarkerSet(TOOL_CALL_CLOSE, TOOL_CALL_OPEN)
_OUTSIDE = re.compile(r'["\\<{}\[\]]')
_INSIDE = re.compile(r'["\\]')


class ScanResult(enum.Enum):
    MORE = enum.auto()
    """The object is incomplete."""
    WHOLE = enum.auto()
    """The brackets are balanced: `text` is the whole object."""
    BROKEN = enum.auto()
    """The text cannot become JSON; the cursor is at the offending character."""


class JsonObjectScanner:
    """Finds the end of a JSON object. A marker inside a string is data.

    Outside strings, `<` and `\\` never occur in JSON. So if two scans cover the same text, one is inside a
    string exactly where the other is outside, and no text is covered three times: scanning again after a
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
        """Continue at the cursor, which starts at the opening bracket."""
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

    def split_after_first_close(self) -> tuple[str, str]:
        """Split the text of a broken block after its first closing marker, or at its end."""
        before, marker, after = self.text.partition(TOOL_CALL_CLOSE)
        return before + marker, after


def read_call(text: str) -> tuple[str, str] | None:
    """Return the name and the arguments (a JSON object) of a call; None if `text` is not a call.

    Arguments may be an object, an object in a string (OpenAI's form), or missing.
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


class _Phase(enum.Enum):
    START = enum.auto()
    OBJECT = enum.auto()
    BLOCK_END = enum.auto()


class JsonCallReader:
    """Reads one call.

    A call is reported once its object is complete, whether the tool is declared or not. If the opening marker
    is not followed by an object that is a call, the text is prose.
    """

    __slots__ = ("_phase", "_scanner", "_sink", "_tools", "_whitespace", "cut", "prose")

    def __init__(self, tools: DeclaredTools, sink: EventSink) -> None:
        self._tools = tools
        self._sink = sink
        self._phase = _Phase.START
        self._whitespace: list[str] = []
        self._scanner = JsonObjectScanner()
        self.prose: str | None = None
        self.cut = False

    def advance(self, cursor: Cursor) -> CallProgress:
        if self._phase is _Phase.START:
            self._whitespace.append(cursor.take_whitespace())
            if cursor.at_end:
                return CallProgress.MORE
            if cursor.text[cursor.position] != "{":
                return self._prose("")
            self._phase = _Phase.OBJECT
        if self._phase is _Phase.OBJECT:
            progress = self._read_object(cursor)
            if progress is not None:
                return progress
            self._phase = _Phase.BLOCK_END
        _, marker = cursor.take_text(_BLOCK_END)
        if marker is None:
            return CallProgress.MORE
        return CallProgress.CLOSED if marker == TOOL_CALL_CLOSE else CallProgress.NEXT_CALL

    def finish(self, cursor: Cursor, *, complete: bool) -> str | None:
        if self._phase is _Phase.BLOCK_END:
            return None
        if not complete:
            self.cut = True
            return None
        block, rest = self._scanner.split_after_first_close()
        self._prose(block)
        return rest or None

    def _read_object(self, cursor: Cursor) -> CallProgress | None:
        """Continue with the object; return None once it is reported."""
        result = self._scanner.scan(cursor)
        if result is ScanResult.MORE:
            return CallProgress.MORE
        if result is ScanResult.BROKEN:
            # If an unclosed string swallowed the closing marker, the rest is outside the block.
            block, rest = self._scanner.split_after_first_close()
            cursor.step_back(rest)
            return self._prose(block)
        return None if self._report(self._scanner.text) else self._prose(self._scanner.text)

    def _prose(self, block: str) -> CallProgress:
        self.prose = TOOL_CALL_OPEN + "".join(self._whitespace) + block
        return CallProgress.PROSE

    def _report(self, text: str) -> bool:
        call = read_call(unquote(text))
        if call is None:
            return False
        name, arguments = call
        self._sink.tool_call(self._tools.called_name(name)).whole_object(arguments)
        return True


JSON_REPLY: Final = ReplyFormat(
    call_open=TOOL_CALL_OPEN,
    call_close=TOOL_CALL_CLOSE,
    think_open=THINK_OPEN,
    think_close=THINK_CLOSE,
    end_of_turn=END_OF_TURN,
    call_reader=JsonCallReader,
)
