"""Parsing content, reasoning and tool calls from a model's text, whole or streamed."""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from serval.schema import strict_json
from serval.tools.cursor import Cursor, MarkerSet
from serval.tools.declared_tools import DeclaredTools
from serval.tools.events import ContentDelta, Event
from serval.tools.quoted import quote, unquote
from serval.tools.reply_format import CallProgress, CallReader, ReplyFormat
from serval.tools.sink import EventSink

# Finish reasons with which the model itself ended its turn; with any other, a call may be truncated.
COMPLETE_FINISH_REASONS: Final = frozenset({"stop", "tool_calls", "function_call"})


class _Phase(enum.IntEnum):
    GAP = 0
    CONTENT = 1
    REASONING_START = 2
    REASONING = 3
    CALL = 4


class ToolCallParser:
    """Reads one assistant turn: `feed` each piece of text, then `finish`.

    - The result does not depend on where the text is cut into pieces.
    - A call is reported with its whole name, even if no such tool is declared: the client can tell the model
      so (`functions.NAME` counts as a declared NAME). Text after an opening marker that is not a call stays
      in the text as prose; the `CallReader` of the format decides.
    - Content is verbatim, except for whitespace: after a call or the reasoning it is dropped, and so is
      content of nothing but whitespace if there are tools. Without tools everything else is content.
    - With `one_kind`, text that does not begin with a call is content to the end: JSON may quote a marker.
    - A think marker at the start opens the reasoning; with `thinking` the prompt has opened it already. The
      reasoning ends at its closing marker or at a call, and is reported without surrounding whitespace.
    - If the text was cut, the call at its end stays open or is not reported, and `cut_call` is True.
    - Lone surrogates, which UTF-8 cannot encode, become U+FFFD.

    No text raises an exception. The time is linear in the length of the text, however it is cut.
    """

    __slots__ = (
        "_blank",
        "_call",
        "_content_markers",
        "_cursor",
        "_finished",
        "_format",
        "_gap_markers",
        "_marker_start",
        "_one_kind",
        "_opener_in",
        "_phase",
        "_places_known",
        "_reasoning_markers",
        "_sink",
        "_tools",
        "cut_call",
    )

    # Reader of the current call; set at its opening marker.
    _call: CallReader

    def __init__(
        self,
        reply_format: ReplyFormat,
        tools: Sequence[Mapping[str, Any]],
        *,
        thinking: bool = False,
        one_kind: bool = False,
    ) -> None:
        """`tools` are OpenAI's, nested (`{"type", "function": {...}}`) or flat (`{"type", "name", ...}`)."""
        self._format = reply_format
        self._marker_start = reply_format.marker_start
        self._tools = DeclaredTools(tools)
        self._sink = EventSink()
        self._cursor = Cursor()
        self._phase = _Phase.REASONING_START if thinking else _Phase.GAP
        self._finished = False
        self._places_known = False
        # After `finish`: the text ended inside a call that is incomplete.
        self.cut_call = False
        self._one_kind = one_kind
        # Whitespace at the very start, which is content only if content follows; None once decided.
        self._blank: list[str] | None = None if thinking else []
        self._opener_in = _Phase.CONTENT  # phase that the last call interrupted
        self._gap_markers: MarkerSet | None = reply_format.openings
        self._reasoning_markers = reply_format.reasoning_ends
        self._content_markers: MarkerSet | None = None
        if self._tools:
            self._gap_markers = reply_format.openings_or_calls
            self._reasoning_markers = reply_format.reasoning_ends_or_calls
            self._content_markers = reply_format.calls

    def feed(self, text: str, marker_places: Sequence[int] | None = None) -> list[Event]:
        """Read the next piece of text and return the events it completes. Not allowed after `finish`.

        `marker_places`: places in `text`, in order, at which markers begin; their text elsewhere is only
        text. None: every text of a marker is one.
        """
        if self._finished:
            raise RuntimeError("feed() after finish(): one ToolCallParser reads one turn; make a new one")
        text = strict_json.clean(text)
        self._places_known = marker_places is not None
        if marker_places is not None and self._marker_start in text:
            text = quote(text, marker_places)
        if text and self._marker_start not in text and self._cursor.at_end:
            # The common case: no marker in the piece, and no unfinished one before it.
            if self._phase is _Phase.GAP and not self._blank:
                # Whitespace at the very start is content if anything follows; later it is dropped.
                begins = not (text[0] if self._blank is None else text).isspace()
                if begins:
                    self._begin_content()
            if self._phase is _Phase.CONTENT:
                return [ContentDelta(unquote(text))]
        self._cursor.extend(text)
        self._advance()
        return self._sink.drain()

    def finish(self, finish_reason: str) -> list[Event]:
        """End the text and return the events that were held back. A second call returns nothing.

        With "stop" or "tool_calls" the arguments of every reported call are closed; with any other reason,
        such as "length" or "stop_string", those of a cut call stay open, as OpenAI's do, and are not JSON.
        """
        if self._finished:
            return []
        self._finished = True
        complete = finish_reason in COMPLETE_FINISH_REASONS
        rest = self._finish_phase(complete=complete)
        while rest is not None:  # it gets shorter each time
            self._enter_gap()
            self._cursor.extend(rest)
            self._advance()
            rest = self._finish_phase(complete=complete)
        return self._sink.drain()

    def _advance(self) -> None:
        while _STEPS[self._phase](self):
            pass

    # Each step continues at the cursor. It returns False if it needs more text, True if the phase changed.

    def _read_gap(self) -> bool:
        """Read the start, or what follows a call or the reasoning, where whitespace may not be content."""
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
        openings = self._format.openings
        if cursor.at_end or openings.unfinished_from(cursor.text, cursor.position) == cursor.position:
            return False
        if openings.match(cursor.text, cursor.position):
            cursor.position += len(self._format.think_open)
        self._phase = _Phase.REASONING
        return True

    def _read_reasoning(self) -> bool:
        text, marker = self._cursor.take_text(self._reasoning_markers)
        self._sink.reasoning(text)
        if marker is None:
            return False
        self._act_on(marker)
        return True

    def _read_call(self) -> bool:
        match self._call.advance(self._cursor):
            case CallProgress.MORE:
                return False
            case CallProgress.CLOSED:
                self._end_reasoning()
                self._enter_gap()
            case CallProgress.NEXT_CALL:
                self._end_reasoning()
                self._open_call(_Phase.CONTENT)
            case CallProgress.PROSE:
                self._release_prose()
        return True

    def _act_on(self, marker: str) -> None:
        """Enter the phase that a marker in content or reasoning begins."""
        if marker == self._format.call_open:
            self._open_call(_Phase.REASONING if self._phase is _Phase.REASONING else _Phase.CONTENT)
        elif marker == self._format.think_open:
            self._phase = _Phase.REASONING
        else:
            if self._phase is not _Phase.REASONING:  # a call has already ended the reasoning
                self._content_markers = self._format.calls
            self._enter_gap()

    def _open_call(self, opener_in: _Phase) -> None:
        self._opener_in = opener_in
        self._call = self._format.call_reader(self._tools, self._sink)
        self._phase = _Phase.CALL

    def _end_reasoning(self) -> None:
        """End the reasoning that a call interrupted; its closing marker may still follow."""
        if self._opener_in is _Phase.REASONING:
            self._content_markers = self._format.reasoning_ends_or_calls

    def _enter_gap(self) -> None:
        self._gap_markers = self._content_markers
        self._phase = _Phase.GAP

    def _release_blank(self) -> None:
        if self._blank is not None:
            self._sink.content("".join(self._blank))
            self._blank = None

    def _release_prose(self) -> None:
        """Give the text of a block that is not a call back to the content or reasoning around it."""
        text = self._call.prose or ""
        self._phase = self._opener_in
        if self._opener_in is _Phase.REASONING:
            self._sink.reasoning(text)
        else:
            self._sink.content(text)

    def _finish_phase(self, *, complete: bool) -> str | None:
        """End the phase at the end of the text. Returns text after an unclosed call, to be read again."""
        match self._phase:
            case _Phase.GAP | _Phase.CONTENT:
                if not self._tools or not self._cursor.at_end:
                    self._release_blank()
                self._sink.content(self._take_rest(complete=complete))
            case _Phase.REASONING_START | _Phase.REASONING:
                self._sink.reasoning(self._take_rest(complete=complete))
            case _Phase.CALL:
                rest = self._call.finish(self._cursor, complete=complete)
                self.cut_call = self._call.cut
                if self._call.prose is None:
                    self._end_reasoning()
                else:
                    self._release_prose()
                return rest
        return None

    def _take_rest(self, *, complete: bool) -> str:
        """Take held-back text that could have become a marker; a marker that was cut is dropped."""
        rest = self._cursor.take_rest()
        return "" if self._places_known and not complete and rest.startswith(self._marker_start) else rest


_STEP_OF_PHASE: Final[Mapping[_Phase, Callable[[ToolCallParser], bool]]] = {
    _Phase.GAP: ToolCallParser._read_gap,
    _Phase.CONTENT: ToolCallParser._read_content,
    _Phase.REASONING_START: ToolCallParser._read_reasoning_start,
    _Phase.REASONING: ToolCallParser._read_reasoning,
    _Phase.CALL: ToolCallParser._read_call,
}
_STEPS: Final = tuple(_STEP_OF_PHASE[phase] for phase in _Phase)
