"""The body of one call: pairs of a key and a value."""

from __future__ import annotations

import enum
from typing import Final

from serval.tools.argument_values import ArgumentValue, DroppedValue, StreamedString, TypedValue
from serval.tools.cursor import Cursor, MarkerSet
from serval.tools.markers import (
    KEY_CLOSE,
    KEY_OPEN,
    TOOL_CALL_CLOSE,
    TOOL_CALL_OPEN,
    VALUE_CLOSE,
    VALUE_OPEN,
)
from serval.tools.parameters import ParameterSchema
from serval.tools.quoted import unquote
from serval.tools.reply_format import CallProgress
from serval.tools.sink import ArgumentsWriter

_BETWEEN_PAIRS = MarkerSet(KEY_OPEN, TOOL_CALL_CLOSE, TOOL_CALL_OPEN)
_IN_KEY = MarkerSet(KEY_CLOSE, VALUE_OPEN, KEY_OPEN, TOOL_CALL_CLOSE, TOOL_CALL_OPEN)
_BEFORE_VALUE = MarkerSet(VALUE_OPEN, KEY_OPEN, TOOL_CALL_CLOSE, TOOL_CALL_OPEN)
_IN_VALUE = MarkerSet(VALUE_CLOSE, TOOL_CALL_CLOSE)
_AFTER_VALUE = MarkerSet(KEY_OPEN, TOOL_CALL_CLOSE)


class _Phase(enum.IntEnum):
    BETWEEN_PAIRS = 0
    KEY = 1
    BEFORE_VALUE = 2
    VALUE = 3
    AFTER_VALUE = 4


class CallBody:
    """Reads the pairs of one call and writes its arguments.

    - `</longcat_arg_value>` closes a value only if the next text after whitespace is `<longcat_arg_key>`,
      `</longcat_tool_call>` or the end; every other marker inside a value is data.
    - A value that is never closed ends at the last `</longcat_tool_call>` of the whole text, without the line
      break before it, which belongs to the format.
    - A missing `<longcat_arg_value>` is tolerated. A key without a value is dropped. If a key occurs twice,
      the first pair counts, because it may have been passed on already.
    - Text outside pairs is dropped.
    """

    __slots__ = (
        "_after_value",
        "_key",
        "_line_break",
        "_parameters",
        "_phase",
        "_unsettled",
        "_value",
        "_writer",
        "cut",
    )
    prose: Final = None  # a call in this format is one from its name on

    def __init__(self, writer: ArgumentsWriter, parameters: ParameterSchema) -> None:
        self._writer = writer
        self._parameters = parameters
        self._phase = _Phase.BETWEEN_PAIRS
        self._key: list[str] = []
        self._value: ArgumentValue = DroppedValue()
        self._after_value: list[str] = []
        # Line break at the end of the value text so far; dropped if the call ends there.
        self._line_break = ""
        # Value text from the last closing call marker on: data if the value is closed later; otherwise
        # the end of the call and the text after it.
        self._unsettled: list[str] | None = None
        self.cut = False

    def advance(self, cursor: Cursor) -> CallProgress:
        """Continue at the cursor."""
        while True:
            match self._phase:
                case _Phase.VALUE:
                    more = self._read_value(cursor)
                case _Phase.AFTER_VALUE:
                    more = self._read_after_value(cursor)
                case _Phase.KEY:
                    more = self._read_key(cursor)
                case _Phase.BEFORE_VALUE:
                    more = self._read_before_value(cursor)
                case _Phase.BETWEEN_PAIRS:
                    result = self._read_between_pairs(cursor)
                    if result is not None:
                        return result
                    more = True
            if not more:
                return CallProgress.MORE

    def finish(self, cursor: Cursor, *, complete: bool) -> str | None:
        """End the body at the end of the text. `complete`: the model itself ended its turn; close arguments.

        Otherwise the arguments stay open. Returns text after the call that was mistaken for part of an
        unclosed value and must be read again.
        """
        rest = None
        if self._phase is _Phase.VALUE:
            rest = self._finish_value(cursor.take_rest(), complete=complete)
        elif self._phase is _Phase.AFTER_VALUE:
            self._close_value()
        if complete:
            self._writer.close()
        else:
            self._writer.leave_open()
            self.cut = True
        return rest

    def _read_between_pairs(self, cursor: Cursor) -> CallProgress | None:
        _, marker = cursor.take_text(_BETWEEN_PAIRS)
        if marker is None:
            return CallProgress.MORE
        if marker == KEY_OPEN:
            self._key.clear()
            self._phase = _Phase.KEY
            return None
        self._writer.close()
        return CallProgress.CLOSED if marker == TOOL_CALL_CLOSE else CallProgress.NEXT_CALL

    def _read_key(self, cursor: Cursor) -> bool:
        text, marker = cursor.take_text(_IN_KEY)
        self._key.append(text)
        if marker is None:
            return False
        if marker == KEY_CLOSE:
            self._phase = _Phase.BEFORE_VALUE
        elif marker == VALUE_OPEN:
            self._open_value()
        else:
            cursor.position -= len(marker)
            self._phase = _Phase.BETWEEN_PAIRS
        return True

    def _read_before_value(self, cursor: Cursor) -> bool:
        cursor.take_whitespace()
        if cursor.at_end:
            return False
        marker = _BEFORE_VALUE.match(cursor.text, cursor.position)
        if marker is None:
            if _BEFORE_VALUE.unfinished_from(cursor.text, cursor.position) == cursor.position:
                return False
            self._open_value()
        elif marker == VALUE_OPEN:
            cursor.position += len(marker)
            self._open_value()
        else:
            self._phase = _Phase.BETWEEN_PAIRS
        return True

    def _open_value(self) -> None:
        self._phase = _Phase.VALUE
        self._line_break = ""
        self._unsettled = None
        key = unquote("".join(self._key))
        is_declared = self._parameters.declares(key)
        if not is_declared:
            key = key.strip()
        if self._writer.has(key) or not (key or is_declared):
            self._value = DroppedValue()
            return
        if self._parameters.takes_only_text(key):
            self._value = StreamedString(key, self._writer)
        else:
            self._value = TypedValue(key, self._parameters, self._writer)

    def _read_value(self, cursor: Cursor) -> bool:
        text, marker = cursor.take_text(_IN_VALUE)
        self._add_to_value(text)
        if marker is None:
            return False
        if marker == VALUE_CLOSE:
            self._after_value = [VALUE_CLOSE]
            self._phase = _Phase.AFTER_VALUE
        else:
            self._settle()
            self._unsettled = [TOOL_CALL_CLOSE]
        return True

    def _read_after_value(self, cursor: Cursor) -> bool:
        self._after_value.append(cursor.take_whitespace())
        if cursor.at_end:
            return False
        if _AFTER_VALUE.match(cursor.text, cursor.position):
            self._close_value()
            self._phase = _Phase.BETWEEN_PAIRS
            return True
        if _AFTER_VALUE.unfinished_from(cursor.text, cursor.position) == cursor.position:
            return False
        self._add_to_value("".join(self._after_value))
        self._phase = _Phase.VALUE
        return True

    def _add_to_value(self, text: str) -> None:
        if self._unsettled is not None:
            self._unsettled.append(text)
            return
        if not text:
            return
        text = self._line_break + text
        self._line_break = "\n" if text.endswith("\n") else ""
        text = text.removesuffix("\n")
        if text:
            self._value.write(text)

    def _settle(self) -> None:
        if self._unsettled is not None:
            text = "".join(self._unsettled)
            self._unsettled = None
            self._add_to_value(text)

    def _close_value(self) -> None:
        self._settle()
        if self._line_break:
            self._value.write(self._line_break)
        self._value.close()

    def _finish_value(self, tail: str, *, complete: bool) -> str | None:
        if not tail.startswith("</longcat_"):  # otherwise it is a truncated closing marker
            self._add_to_value(tail)
        if not complete:
            return None  # a closing call marker may have been data: only the end of the turn decides
        if self._unsettled is None:
            self._close_value()
            return None
        self._value.close()
        return "".join(self._unsettled).removeprefix(TOOL_CALL_CLOSE)
