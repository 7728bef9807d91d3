"""Tool calls, content and reasoning out of LongCat's text, the same for one piece of text and for many.

    assistant := text? call*
    call      := "<longcat_tool_call>" NAME "\\n" pair* "</longcat_tool_call>" "\\n"
    pair      := "<longcat_arg_key>" KEY "</longcat_arg_key>" "\\n"
                 "<longcat_arg_value>" VALUE "</longcat_arg_value>" "\\n"

VALUE is the raw text of a string and JSON for everything else. The format has no escape, so what a marker
means depends on where it stands; the rules are at `ToolCallParser` and `call_body.CallBody`.
"""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from serval.schema import strict_json
from serval.tools.call_body import BodyResult, CallBody
from serval.tools.events import ArgumentsDelta, ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.tools.json_dialect import JsonObjectScanner, ScanResult, read_call
from serval.tools.markers import (
    KEY_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
    TOOL_CALL_CLOSE,
    TOOL_CALL_OPEN,
    Cursor,
    MarkerSet,
)
from serval.tools.parameters import ParameterSchema
from serval.tools.sink import EventSink

__all__ = ["ArgumentsDelta", "ContentDelta", "Event", "ReasoningDelta", "ToolCallParser", "ToolCallStart"]

# Finish reasons by which the model itself ended its turn; after any other, a call is cut short.
COMPLETE_FINISH_REASONS: Final = frozenset({"stop", "tool_calls", "function_call"})

_NAME_PREFIX: Final = "functions."
_NAME = re.compile(r"[A-Za-z0-9_.:/-]*")
_NAME_END = MarkerSet("\n", KEY_OPEN, TOOL_CALL_CLOSE, TOOL_CALL_OPEN)
_BODY_START = MarkerSet(KEY_OPEN, TOOL_CALL_CLOSE)
_BLOCK_END = MarkerSet(TOOL_CALL_CLOSE, TOOL_CALL_OPEN)
_START = MarkerSet(THINK_OPEN)
_START_OR_CALL = MarkerSet(THINK_OPEN, TOOL_CALL_OPEN)
_REASONING_END = MarkerSet(THINK_CLOSE)
_REASONING_END_OR_CALL = MarkerSet(THINK_CLOSE, TOOL_CALL_OPEN)
_CALL = MarkerSet(TOOL_CALL_OPEN)


class _Phase(enum.IntEnum):
    GAP = 0
    CONTENT = 1
    REASONING_START = 2
    REASONING = 3
    NAME_START = 4
    NAME = 5
    PROSE_OR_BODY = 6
    BODY = 7
    JSON = 8
    BLOCK_END = 9


class ToolCallParser:
    """Reads one assistant turn: `feed` each piece of text, then `finish`. The cuts make no difference.

    - A call's name is reported once, whole, and only if the tool is declared (`functions.NAME` counts as
      NAME). The block of an undeclared tool is dropped. If what follows `<longcat_tool_call>` is no name, and
      no argument or closing marker comes after its line, the marker is prose and stays in the text.
    - `{` after `<longcat_tool_call>` is the JSON dialect of LongCat-Flash-Chat; a block that is no JSON is
      dropped.
    - Content is verbatim, except that whitespace after a call or the reasoning is dropped, and so is
      whitespace that is all there is before a call, or at all. Without tools everything is content.
    - With `one_kind`, text that does not begin with a call is content to its end: JSON may quote a marker.
    - `<longcat_think>` at the start opens the reasoning; with `thinking` the prompt has opened it already. It
      ends at `</longcat_think>` or at a call, and is reported without the whitespace around it.
    - Lone surrogates, which no UTF-8 writer accepts, become U+FFFD.

    No text raises. Time is linear in the length of the text, however it is cut.
    """

    __slots__ = (
        "_blank",
        "_body",
        "_content_markers",
        "_cursor",
        "_finished",
        "_functions",
        "_gap_markers",
        "_json",
        "_one_kind",
        "_opener_in",
        "_phase",
        "_raw",
        "_reasoning_markers",
        "_sink",
    )

    # Of the call that is being read; set where its body begins.
    _body: CallBody
    _json: JsonObjectScanner

    def __init__(
        self, tools: Sequence[Mapping[str, Any]], *, thinking: bool = False, one_kind: bool = False
    ) -> None:
        """`tools` are OpenAI's, nested (`{"type", "function": {...}}`) or flat (`{"type", "name", ...}`)."""
        self._functions = _functions_by_name(tools)
        self._sink = EventSink()
        self._cursor = Cursor()
        self._phase = _Phase.REASONING_START if thinking else _Phase.GAP
        self._finished = False
        self._one_kind = one_kind
        # Whitespace at the very start: content only if content follows. None once it is decided.
        self._blank: list[str] | None = None if thinking else []
        self._opener_in = _Phase.CONTENT  # the text that the newest `<longcat_tool_call>` interrupted
        self._raw: list[str] = []  # all since that opener, while it may turn out to be prose
        has_tools = bool(self._functions)
        self._gap_markers: MarkerSet | None = _START_OR_CALL if has_tools else _START
        self._reasoning_markers = _REASONING_END_OR_CALL if has_tools else _REASONING_END
        self._content_markers = _CALL if has_tools else None

    def feed(self, text: str) -> list[Event]:
        """The next piece of the model's text; returns what it settles. Not to be called after `finish`."""
        if self._finished:
            raise RuntimeError("feed() after finish(): one ToolCallParser reads one turn; make a new one")
        text = strict_json.clean(text)
        if text and "<" not in text and self._cursor.at_end:
            # Nearly every piece: no marker is in it, and none has begun before it.
            if self._phase is _Phase.GAP and not self._blank:
                # At the very start whitespace is content if anything follows; later it is dropped.
                begins = not (text[0] if self._blank is None else text).isspace()
                if begins:
                    self._begin_content()
            if self._phase is _Phase.CONTENT:
                return [ContentDelta(text)]
        self._cursor.extend(text)
        self._advance()
        return self._sink.drain()

    def finish(self, finish_reason: str) -> list[Event]:
        """The text is at its end; returns what was held back.

        With "stop" or "tool_calls" the arguments of every reported call are closed; with any other reason (as
        "length") those of a call that was cut short stay open, as OpenAI's do. A second call returns nothing.
        """
        if self._finished:
            return []
        self._finished = True
        complete = finish_reason in COMPLETE_FINISH_REASONS
        rest = self._finish_phase(complete=complete)
        while rest is not None:  # shorter each time
            self._enter_gap()
            self._cursor.extend(rest)
            self._advance()
            rest = self._finish_phase(complete=complete)
        return self._sink.drain()

    def _advance(self) -> None:
        while _STEPS[self._phase](self):
            pass

    # Each step reads on from the cursor. It returns False if it needs more text, True if the phase changed.

    def _read_gap(self) -> bool:
        """At the start, after a call, or after the reasoning: whitespace is not yet content, or never."""
        cursor = self._cursor
        blank = cursor.take_whitespace()
        if self._blank is not None:
            self._blank.append(blank)
        if cursor.at_end:
            return False
        if self._gap_markers is not None:
            marker = self._gap_markers.match(cursor.text, cursor.position)
            if marker is not None:
                self._blank = None
                cursor.position += len(marker)
                self._act_on(marker)
                return True
            if self._gap_markers.unfinished_from(cursor.text, cursor.position) == cursor.position:
                return False
        self._begin_content()
        return True

    def _begin_content(self) -> None:
        if self._one_kind and self._blank is not None:
            self._content_markers = None
        self._release_blank()
        self._phase = _Phase.CONTENT

    def _read_content(self) -> bool:
        if self._content_markers is None:
            self._sink.content(self._cursor.take_rest())
            return False
        text, marker = self._cursor.take_text(self._content_markers)
        self._sink.content(text)
        if marker is None:
            return False
        self._act_on(marker)
        return True

    def _read_reasoning_start(self) -> bool:
        cursor = self._cursor
        cursor.take_whitespace()
        if cursor.at_end or _START.unfinished_from(cursor.text, cursor.position) == cursor.position:
            return False
        if _START.match(cursor.text, cursor.position):
            cursor.position += len(THINK_OPEN)
        self._phase = _Phase.REASONING
        return True

    def _read_reasoning(self) -> bool:
        text, marker = self._cursor.take_text(self._reasoning_markers)
        self._sink.reasoning(text)
        if marker is None:
            return False
        self._act_on(marker)
        return True

    def _read_name_start(self) -> bool:
        cursor = self._cursor
        self._raw.append(cursor.take_whitespace())
        if cursor.at_end:
            return False
        if cursor.text[cursor.position] == "{":
            self._json = JsonObjectScanner()
            self._phase = _Phase.JSON
        else:
            self._phase = _Phase.NAME
        return True

    def _read_name(self) -> bool:
        text, marker = self._cursor.take_text(_NAME_END)
        self._raw.append(text)
        if marker is None:
            return False
        self._cursor.position -= len(marker)
        if not self._open_body():
            self._phase = _Phase.PROSE_OR_BODY
        return True

    def _read_prose_or_body(self) -> bool:
        """After a line that is no tool name: only an argument or a closing marker makes it a call."""
        cursor = self._cursor
        self._raw.append(cursor.take_whitespace())
        if cursor.at_end:
            return False
        if _BODY_START.match(cursor.text, cursor.position):
            self._start_body(None)
        elif _BODY_START.unfinished_from(cursor.text, cursor.position) == cursor.position:
            return False
        else:
            self._release_prose()
        return True

    def _read_body(self) -> bool:
        result = self._body.advance(self._cursor)
        if result is BodyResult.MORE:
            return False
        if result is BodyResult.CLOSED:
            self._enter_gap()
        else:
            self._open_call(_Phase.CONTENT)
        return True

    def _read_json(self) -> bool:
        result = self._json.scan(self._cursor)
        if result is ScanResult.MORE:
            return False
        self._end_reasoning()
        self._phase = _Phase.BLOCK_END
        if result is ScanResult.WHOLE:
            call = read_call(self._json.text)
            if call is not None and (name := self._declared_name(call[0])) is not None:
                self._sink.tool_call(name).whole_object(call[1])
        elif (rest := self._json.text_after_first_close()) is not None:
            # A string that never ends had swallowed the closing marker: what follows it is outside the call.
            self._cursor.step_back(rest)
            self._enter_gap()
        return True

    def _read_block_end(self) -> bool:
        _, marker = self._cursor.take_text(_BLOCK_END)
        if marker is None:
            return False
        if marker == TOOL_CALL_CLOSE:
            self._enter_gap()
        else:
            self._open_call(_Phase.CONTENT)
        return True

    def _act_on(self, marker: str) -> None:
        """Go on after a marker that was read in text."""
        if marker == TOOL_CALL_OPEN:
            self._open_call(_Phase.REASONING if self._phase is _Phase.REASONING else _Phase.CONTENT)
        elif marker == THINK_OPEN:
            self._phase = _Phase.REASONING
        else:
            if self._phase is not _Phase.REASONING:  # a call had ended the reasoning before
                self._content_markers = _CALL
            self._enter_gap()

    def _open_call(self, opener_in: _Phase) -> None:
        self._opener_in = opener_in
        self._raw = [TOOL_CALL_OPEN]
        self._phase = _Phase.NAME_START

    def _open_body(self) -> bool:
        """Begin the body of the call named in `_raw`; False if that is no name."""
        name = "".join(self._raw).removeprefix(TOOL_CALL_OPEN).strip()
        declared = self._declared_name(name)
        if declared is None and not _NAME.fullmatch(name):
            return False
        self._start_body(declared)
        return True

    def _start_body(self, declared: str | None) -> None:
        self._end_reasoning()
        self._raw = []
        if declared is None:
            self._body = CallBody(None, ParameterSchema(None))
        else:
            parameters = ParameterSchema(self._functions[declared].get("parameters"))
            self._body = CallBody(self._sink.tool_call(declared), parameters)
        self._phase = _Phase.BODY

    def _end_reasoning(self) -> None:
        if self._opener_in is _Phase.REASONING:
            self._content_markers = _REASONING_END_OR_CALL

    def _declared_name(self, name: str) -> str | None:
        for candidate in (name, name.removeprefix(_NAME_PREFIX)):
            if candidate in self._functions:
                return candidate
        return None

    def _enter_gap(self) -> None:
        self._gap_markers = self._content_markers
        self._phase = _Phase.GAP

    def _release_blank(self) -> None:
        if self._blank is not None:
            self._sink.content("".join(self._blank))
            self._blank = None

    def _release_prose(self) -> None:
        """The newest opener was no call: give its text back to where it stood."""
        text = "".join(self._raw)
        self._raw = []
        self._phase = self._opener_in
        if self._opener_in is _Phase.REASONING:
            self._sink.reasoning(text)
        else:
            self._sink.content(text)

    def _finish_phase(self, *, complete: bool) -> str | None:
        """The text ended in this phase. Returns text to be read again, after a call that was never closed."""
        match self._phase:
            case _Phase.GAP | _Phase.CONTENT:
                if not self._functions or not self._cursor.at_end:
                    self._release_blank()
                self._sink.content(self._cursor.take_rest())
            case _Phase.REASONING_START | _Phase.REASONING:
                self._sink.reasoning(self._cursor.take_rest())
            case _Phase.NAME_START | _Phase.NAME:
                return self._finish_name(complete=complete)
            case _Phase.PROSE_OR_BODY if self._cursor.at_end:
                self._release_prose()
            case _Phase.BODY:
                return self._body.finish(self._cursor, complete=complete)
            case _Phase.JSON:
                self._end_reasoning()
                return self._json.text_after_first_close()
        return None

    def _finish_name(self, *, complete: bool) -> str | None:
        name = "".join(self._raw).removeprefix(TOOL_CALL_OPEN).strip()
        if complete and self._open_body():
            return self._body.finish(self._cursor, complete=True)
        if not _NAME.fullmatch(name):
            self._raw.append(self._cursor.take_rest())
            self._release_prose()
        return None


def _functions_by_name(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    functions: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            functions[function["name"]] = function
    return functions


_STEP_OF_PHASE: Final[Mapping[_Phase, Callable[[ToolCallParser], bool]]] = {
    _Phase.GAP: ToolCallParser._read_gap,
    _Phase.CONTENT: ToolCallParser._read_content,
    _Phase.REASONING_START: ToolCallParser._read_reasoning_start,
    _Phase.REASONING: ToolCallParser._read_reasoning,
    _Phase.NAME_START: ToolCallParser._read_name_start,
    _Phase.NAME: ToolCallParser._read_name,
    _Phase.PROSE_OR_BODY: ToolCallParser._read_prose_or_body,
    _Phase.BODY: ToolCallParser._read_body,
    _Phase.JSON: ToolCallParser._read_json,
    _Phase.BLOCK_END: ToolCallParser._read_block_end,
}
_STEPS: Final = tuple(_STEP_OF_PHASE[phase] for phase in _Phase)
