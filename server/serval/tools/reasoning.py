"""Splitting off the reasoning of a reply, for callers that leave tool calls to another parser."""

from serval.schema import strict_json
from serval.tools.cursor import Cursor
from serval.tools.events import Event
from serval.tools.reply_format import ReplyFormat
from serval.tools.sink import EventSink


class ReasoningSplitter:
    """Splits one reply into reasoning and the rest. The result does not depend on how the text is cut.

    A think marker at the start opens the reasoning; with `thinking` the prompt has opened it already. It ends
    at its closing marker or before a call. Whitespace around it is dropped; all other text is unchanged.
    """

    def __init__(self, reply_format: ReplyFormat, *, thinking: bool) -> None:
        self._format = reply_format
        self._sink = EventSink()
        self._cursor = Cursor()
        self._in_reasoning = thinking
        self._at_start = True
        self._dropping_blank = False
        self._blank: list[str] = []  # whitespace that may be content

    @property
    def in_reasoning(self) -> bool:
        """True while the reasoning is open."""
        return self._in_reasoning

    def feed(self, text: str) -> list[Event]:
        """Read the next piece and return the events it completes: ReasoningDelta and ContentDelta."""
        self._cursor.extend(strict_json.clean(text))
        if self._at_start:
            self._read_start()
        if not self._at_start and self._in_reasoning:
            self._read_reasoning()
        if not self._at_start and not self._in_reasoning:
            self._read_rest()
        return self._sink.drain()

    def finish(self) -> list[Event]:
        """End the reply and return the events that were held back."""
        if self._in_reasoning:
            self._sink.reasoning(self._cursor.take_rest())
        else:
            self._sink.content("".join(self._blank) + self._cursor.take_rest())
            self._blank.clear()
        return self._sink.drain()

    def _read_start(self) -> None:
        cursor = self._cursor
        self._blank.append(cursor.take_whitespace())
        openings = self._format.openings
        if cursor.at_end or openings.unfinished_from(cursor.text, cursor.position) == cursor.position:
            return
        self._at_start = False
        if openings.match(cursor.text, cursor.position):
            cursor.position += len(self._format.think_open)
            self._in_reasoning = True
        if self._in_reasoning:
            self._blank.clear()

    def _read_reasoning(self) -> None:
        text, marker = self._cursor.take_text(self._format.reasoning_ends_or_calls)
        self._sink.reasoning(text)
        if marker is not None:
            self._in_reasoning = False
            self._dropping_blank = True
        if marker == self._format.call_open:
            self._cursor.position -= len(marker)

    def _read_rest(self) -> None:
        if self._dropping_blank:
            self._cursor.take_whitespace()
            self._dropping_blank = self._cursor.at_end
        rest = self._cursor.take_rest()
        if rest:
            self._sink.content("".join(self._blank) + rest)
            self._blank.clear()
