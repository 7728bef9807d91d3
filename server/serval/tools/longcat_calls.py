"""Calls in the format of LongCat-Flash-Lite: a name, then pairs of a key and a value between markers.

    call := "<longcat_tool_call>" NAME "\\n" pair* "</longcat_tool_call>" "\\n"
    pair := "<longcat_arg_key>" KEY "</longcat_arg_key>" "\\n"
            "<longcat_arg_value>" VALUE "</longcat_arg_value>" "\\n"

VALUE is the raw text of a string, and JSON for everything else.
"""

import enum
import re
from typing import Final

from serval.tools.call_body import CallBody
from serval.tools.cursor import Cursor, MarkerSet
from serval.tools.declared_tools import DeclaredTools
from serval.tools.json_calls import JsonCallReader
from serval.tools.markers import (
    END_OF_TURN,
    KEY_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
    TOOL_CALL_CLOSE,
    TOOL_CALL_OPEN,
)
from serval.tools.parameters import ParameterSchema
from serval.tools.reply_format import CallProgress, ReplyFormat
from serval.tools.sink import EventSink

_NAME = re.compile(r"[A-Za-z0-9_.:/-]*")
_NAME_END = MarkerSet("\n", KEY_OPEN, TOOL_CALL_CLOSE, TOOL_CALL_OPEN)
_BODY_START = MarkerSet(KEY_OPEN, TOOL_CALL_CLOSE)


class _Phase(enum.Enum):
    START = enum.auto()
    NAME = enum.auto()
    PROSE_OR_BODY = enum.auto()
    BODY = enum.auto()


class LongcatCallReader:
    """Reads one call.

    - The block of an undeclared tool is dropped. If the line after the opening marker is not a name, and no
      argument or closing marker follows it, the text is prose.
    - `{` instead of a name begins a call in JSON, as LongCat-Flash-Chat writes it.
    """

    __slots__ = ("_body", "_phase", "_raw", "_sink", "_tools", "prose")

    # Set when the body begins.
    _body: CallBody | JsonCallReader

    def __init__(self, tools: DeclaredTools, sink: EventSink) -> None:
        self._tools = tools
        self._sink = sink
        self._phase = _Phase.START
        self._raw = [TOOL_CALL_OPEN]  # all text so far, as long as it may be prose
        self.prose: str | None = None

    def advance(self, cursor: Cursor) -> CallProgress:
        while self.prose is None:
            if self._phase is _Phase.BODY:
                return self._body.advance(cursor)
            match self._phase:
                case _Phase.START:
                    more = self._read_start(cursor)
                case _Phase.NAME:
                    more = self._read_name(cursor)
                case _Phase.PROSE_OR_BODY:
                    more = self._read_prose_or_body(cursor)
            if not more:
                return CallProgress.MORE
        return CallProgress.PROSE

    def finish(self, cursor: Cursor, *, complete: bool) -> str | None:
        match self._phase:
            case _Phase.BODY:
                return self._body.finish(cursor, complete=complete)
            case _Phase.PROSE_OR_BODY:
                if cursor.at_end:  # otherwise a marker of the call has begun
                    self.prose = "".join(self._raw)
            case _Phase.START | _Phase.NAME:
                if complete and self._open_body():
                    return self._body.finish(cursor, complete=True)
                if not _NAME.fullmatch(self._name()):
                    self.prose = "".join(self._raw) + cursor.take_rest()
        return None

    def _read_start(self, cursor: Cursor) -> bool:
        self._raw.append(cursor.take_whitespace())
        if cursor.at_end:
            return False
        if cursor.text[cursor.position] == "{":
            self._body = JsonCallReader(self._tools, self._sink)
            self._phase = _Phase.BODY
        else:
            self._phase = _Phase.NAME
        return True

    def _read_name(self, cursor: Cursor) -> bool:
        text, marker = cursor.take_text(_NAME_END)
        self._raw.append(text)
        if marker is None:
            return False
        cursor.position -= len(marker)
        if not self._open_body():
            self._phase = _Phase.PROSE_OR_BODY
        return True

    def _read_prose_or_body(self, cursor: Cursor) -> bool:
        """Continue after a line that is not a name: only an argument or a closing marker makes it a call."""
        self._raw.append(cursor.take_whitespace())
        if cursor.at_end:
            return False
        if _BODY_START.match(cursor.text, cursor.position):
            self._start_body(None)
        elif _BODY_START.unfinished_from(cursor.text, cursor.position) == cursor.position:
            return False
        else:
            self.prose = "".join(self._raw)
        return True

    def _name(self) -> str:
        return "".join(self._raw).removeprefix(TOOL_CALL_OPEN).strip()

    def _open_body(self) -> bool:
        """Begin the body of the call; return False if there is no name."""
        name = self._name()
        declared = self._tools.declared_name(name)
        if declared is None and not _NAME.fullmatch(name):
            return False
        self._start_body(declared)
        return True

    def _start_body(self, declared: str | None) -> None:
        self._raw = []
        if declared is None:
            self._body = CallBody(None, ParameterSchema(None))
        else:
            self._body = CallBody(self._sink.tool_call(declared), self._tools.parameters_of(declared))
        self._phase = _Phase.BODY


LONGCAT_REPLY: Final = ReplyFormat(
    call_open=TOOL_CALL_OPEN,
    call_close=TOOL_CALL_CLOSE,
    think_open=THINK_OPEN,
    think_close=THINK_CLOSE,
    end_of_turn=END_OF_TURN,
    call_reader=LongcatCallReader,
)
