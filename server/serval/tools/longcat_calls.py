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
    KEY_CLOSE,
    KEY_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
    TOOL_CALL_CLOSE,
    TOOL_CALL_OPEN,
    VALUE_CLOSE,
    VALUE_OPEN,
)
from serval.tools.reply_format import CallProgress, ReplyFormat
from serval.tools.sink import EventSink

_NAME = re.compile(r"(?=[.:/-]*\w)[\w.:/-]+")
_NAME_END = MarkerSet("\n", KEY_OPEN, TOOL_CALL_CLOSE, TOOL_CALL_OPEN)


class _Phase(enum.Enum):
    START = enum.auto()
    NAME = enum.auto()
    BODY = enum.auto()


class LongcatCallReader:
    """Reads one call.

    - A tool that is not declared is reported as well, under the name that the model wrote. If the line after
      the opening marker is not a name, the text is prose.
    - `{` instead of a name begins a call in JSON, as LongCat-Flash-Chat writes it.
    """

    __slots__ = ("_body", "_phase", "_raw", "_sink", "_tools", "cut", "prose")

    # Set when the body begins.
    _body: CallBody | JsonCallReader

    def __init__(self, tools: DeclaredTools, sink: EventSink) -> None:
        self._tools = tools
        self._sink = sink
        self._phase = _Phase.START
        self._raw = [TOOL_CALL_OPEN]  # all text so far, as long as it may be prose
        self.prose: str | None = None
        self.cut = False

    def advance(self, cursor: Cursor) -> CallProgress:
        while self.prose is None:
            match self._phase:
                case _Phase.START:
                    more = self._read_start(cursor)
                case _Phase.NAME:
                    more = self._read_name(cursor)
                case _Phase.BODY:
                    return self._advance_body(cursor)
            if not more:
                return CallProgress.MORE
        return CallProgress.PROSE

    def finish(self, cursor: Cursor, *, complete: bool) -> str | None:
        if self._phase is _Phase.BODY:
            return self._finish_body(cursor, complete=complete)
        name = self._name()
        if complete and _NAME.fullmatch(name):
            self._open_body(name)
            return self._finish_body(cursor, complete=True)
        if complete or (name and not _NAME.fullmatch(name)):
            self.prose = "".join(self._raw) + cursor.take_rest()
        else:
            self.cut = True
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
        name = self._name()
        if _NAME.fullmatch(name):
            self._open_body(name)
        else:
            self.prose = "".join(self._raw)
        return True

    def _name(self) -> str:
        return "".join(self._raw).removeprefix(TOOL_CALL_OPEN).strip()

    def _open_body(self, name: str) -> None:
        called = self._tools.called_name(name)
        self._body = CallBody(self._sink.tool_call(called), self._tools.parameters_of(called))
        self._phase = _Phase.BODY

    def _advance_body(self, cursor: Cursor) -> CallProgress:
        progress = self._body.advance(cursor)
        self._take_prose()
        return progress

    def _finish_body(self, cursor: Cursor, *, complete: bool) -> str | None:
        rest = self._body.finish(cursor, complete=complete)
        self.cut = self._body.cut
        self._take_prose()
        return rest

    def _take_prose(self) -> None:
        prose = self._body.prose
        if prose is not None:
            self.prose = "".join(self._raw) + prose.removeprefix(TOOL_CALL_OPEN)


LONGCAT_REPLY: Final = ReplyFormat(
    call_open=TOOL_CALL_OPEN,
    call_close=TOOL_CALL_CLOSE,
    think_open=THINK_OPEN,
    think_close=THINK_CLOSE,
    end_of_turn=END_OF_TURN,
    call_reader=LongcatCallReader,
    argument_markers=(KEY_OPEN, KEY_CLOSE, VALUE_OPEN, VALUE_CLOSE),
)
