"""Collecting the events of one piece of text. Adjacent ones are joined, so that fewer frames are sent."""

from serval.schema import strict_json
from serval.tools.events import ArgumentsDelta, ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.tools.quoted import unquote


class EventSink:
    """Events in order; adjacent pieces of the same text are one event."""

    __slots__ = ("_calls", "_events", "_kind", "_pieces", "_trailing")

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._pieces: list[str] = []
        self._kind: type[ContentDelta] | type[ReasoningDelta] | type[ArgumentsDelta] = ContentDelta
        self._calls = 0
        # Whitespace at the end of the reasoning, dropped if no text follows; None before the first word.
        self._trailing: list[str] | None = None

    def content(self, text: str) -> None:
        if text:
            self._add(ContentDelta, text)

    def reasoning(self, text: str) -> None:
        """Add to the reasoning, which is reported without surrounding whitespace."""
        if self._trailing is None:
            text = text.lstrip()
            if not text:
                return
            self._trailing = []
        word_end = len(text.rstrip())
        if word_end:
            self._add(ReasoningDelta, "".join(self._trailing) + text[:word_end])
            self._trailing.clear()
        if word_end < len(text):
            self._trailing.append(text[word_end:])

    def tool_call(self, name: str) -> "ArgumentsWriter":
        """Report the start of the next call and return the writer of its arguments."""
        self._flush()
        self._events.append(ToolCallStart(self._calls, name))
        self._calls += 1
        return ArgumentsWriter(self)

    def arguments(self, text: str) -> None:
        """Add to the arguments of the last call."""
        if self._kind is not ArgumentsDelta:
            self._flush()
            self._kind = ArgumentsDelta
        self._pieces.append(text)

    def drain(self) -> list[Event]:
        """Return the events since the last drain."""
        self._flush()
        events, self._events = self._events, []
        return events

    def _add(self, kind: type[ContentDelta] | type[ReasoningDelta] | type[ArgumentsDelta], text: str) -> None:
        if kind is not self._kind:
            self._flush()
            self._kind = kind
        self._pieces.append(text)

    def _flush(self) -> None:
        if not self._pieces:
            return
        text = unquote("".join(self._pieces))
        self._pieces.clear()
        if self._kind is ArgumentsDelta:
            self._events.append(ArgumentsDelta(self._calls - 1, text))
        elif self._kind is ContentDelta:
            self._events.append(ContentDelta(text))
        else:
            self._events.append(ReasoningDelta(text))


class ArgumentsWriter:
    """Writes the arguments of one call, which are one JSON object once closed."""

    __slots__ = ("_sink", "_written")

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._written: set[str] = set()

    def has(self, key: str) -> bool:
        return key in self._written

    def open_string(self, key: str) -> None:
        """Begin a string argument; `string` and `close_string` follow."""
        self._sink.arguments(f'{self._key(key)}"')

    def string(self, text: str) -> None:
        """Write a piece of the open string."""
        self._sink.arguments(strict_json.escape(text))

    def close_string(self) -> None:
        self._sink.arguments('"')

    def whole(self, key: str, value_json: str) -> None:
        """Write an argument whose value is complete."""
        self._sink.arguments(self._key(key) + value_json)

    def whole_object(self, object_json: str) -> None:
        """Write all arguments at once; nothing else may be written."""
        self._sink.arguments(object_json)

    def close(self) -> None:
        self._sink.arguments("}" if self._written else "{}")

    def leave_open(self) -> None:
        """End the arguments of a cut call: not as JSON, and not empty, which many clients take for `{}`."""
        if not self._written:
            self._sink.arguments("{")

    def _key(self, key: str) -> str:
        opening = ", " if self._written else "{"
        self._written.add(key)
        return f"{opening}{strict_json.encode(key)}: "
