"""Events of an answer's items, one item after the other, and the items themselves."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from serval.wire.responses.custom_input import CustomInput
from serval.wire.responses.events import EventWriter, delta_head
from serval.wire.responses.output import (
    CALL_PREFIXES,
    Status,
    call_item,
    message_item,
    reasoning_item,
    text_part,
)
from serval.wire.responses.tools import CalledTool

Logprobs = Sequence[Mapping[str, Any]]


def item_id(prefix: str, answer_id: str, index: int) -> str:
    """Return the id of the item at `index` of an answer."""
    return f"{prefix}_{answer_id.rpartition('_')[2]}{index:04x}"


class OpenItem(Protocol):
    """An item in progress."""

    def add(self, text: str) -> bytes:
        """Return the events of a piece of its text or arguments."""

    def close(self, status: Status) -> tuple[bytes, dict[str, Any]]:
        """Return its last events but `output_item.done`, and the finished item."""


class ItemEvents:
    """Writes the items of one answer. `items` are the finished ones.

    An item's id and index are the same in all of its events, in the finished answer and where it is stored.
    """

    def __init__(self, answer_id: str, called: Mapping[str, CalledTool], events: EventWriter) -> None:
        """`called`: the tools by the names that the model knows. Others are functions."""
        self.items: list[dict[str, Any]] = []
        self._answer_id = answer_id
        self._called = called
        self._events = events
        self._open: OpenItem | None = None

    def content(self, text: str, logprobs: Logprobs | None = None) -> bytes:
        """Add a piece of the text. The parser has dropped white space that stands alone before a call."""
        item = self._open
        if isinstance(item, OpenMessage):
            return item.add(text) if logprobs is None else item.add_scored(text, logprobs)
        return self._begin_message() + self.content(text, logprobs)

    def add_scores(self, logprobs: Logprobs) -> None:
        """Add log-probabilities of tokens at the end of an open message that have no text."""
        if isinstance(self._open, OpenMessage):
            self._open.logprobs += logprobs

    def reasoning(self, text: str) -> bytes:
        """Add a piece of the reasoning."""
        if isinstance(self._open, _OpenReasoning):
            return self._open.add(text)
        before = self.close("completed")
        index = len(self.items)
        made = _OpenReasoning(self._events, item_id("rs", self._answer_id, index), index)
        self._open = made
        return before + made.begin() + made.add(text)

    def call(self, call_id: str, name: str) -> bytes:
        """Begin a call of the tool that the model knows by this name."""
        before = self.close("completed")
        called = self._called.get(name) or CalledTool("function", name)
        index = len(self.items)
        call_item_id = item_id(CALL_PREFIXES[called.kind], self._answer_id, index)
        if called.kind == "function":
            self._open = _OpenFunctionCall(self._events, call_item_id, index, called, call_id)
        elif called.kind == "custom":
            self._open = _OpenCustomCall(self._events, call_item_id, index, called, call_id)
        else:
            self._open = _OpenWholeCall(call_item_id, called, call_id)
        item = call_item(call_item_id, "in_progress", called, call_id, "")
        return before + self._events.event("output_item.added", {"output_index": index, "item": item})

    def arguments(self, text: str) -> bytes:
        """Add a piece of the arguments of the open call."""
        return b"" if self._open is None else self._open.add(text)

    def add_sealed(self, item: dict[str, Any]) -> bytes:
        """Add the item with a sealed turn, behind a finished answer."""
        index = len(self.items)
        self.items.append(item)
        return b"".join(
            self._events.event(f"output_item.{kind}", {"output_index": index, "item": shown})
            for kind, shown in (("added", item | {"encrypted_content": None}), ("done", item))
        )

    def close(self, status: Status) -> bytes:
        """End the open item, if there is one."""
        if self._open is None:
            return b""
        events, item = self._open.close(status)
        self._open = None
        index = len(self.items)
        self.items.append(item)
        return events + self._events.event("output_item.done", {"output_index": index, "item": item})

    def finish(self, status: Status) -> bytes:
        """End the answer, whose last item has this status.

        It has at least a message, perhaps of no text: clients wait for one. A cut reasoning is enough.
        """
        events = b""
        has_answer = any(item["type"] != "reasoning" for item in self.items)
        is_thought = isinstance(self._open, _OpenReasoning)
        if not has_answer and (self._open is None or (is_thought and status == "completed")):
            events = self._begin_message()
        return events + self.close(status)

    def _begin_message(self) -> bytes:
        before = self.close("completed")
        index = len(self.items)
        made = OpenMessage(self._events, item_id("msg", self._answer_id, index), index)
        self._open = made
        return before + made.begin()


class OpenMessage:
    """A message in progress."""

    def __init__(self, events: EventWriter, item_id: str, index: int) -> None:
        self._events = events
        self._id = item_id
        self._index = index
        self._pieces: list[str] = []
        self.logprobs: list[Mapping[str, Any]] = []
        self._place = {"item_id": item_id, "output_index": index, "content_index": 0}
        self._head = delta_head("output_text.delta", {**self._place, "logprobs": []})

    def begin(self) -> bytes:
        """Return the first events."""
        item = {**message_item(self._id, "in_progress", ""), "content": []}
        return self._events.event(
            "output_item.added", {"output_index": self._index, "item": item}
        ) + self._events.event("content_part.added", {**self._place, "part": text_part("")})

    def add(self, text: str) -> bytes:
        """See `OpenItem`."""
        self._pieces.append(text)
        return self._events.delta(self._head, text)

    def add_scored(self, text: str, logprobs: Logprobs) -> bytes:
        """Add a piece of the text with the log-probabilities of its tokens."""
        self._pieces.append(text)
        self.logprobs += logprobs
        fields = {**self._place, "delta": text, "logprobs": logprobs}
        return self._events.event("output_text.delta", fields)

    def close(self, status: Status) -> tuple[bytes, dict[str, Any]]:
        """See `OpenItem`."""
        text, event = "".join(self._pieces), self._events.event
        events = event("output_text.done", {**self._place, "text": text, "logprobs": self.logprobs})
        events += event("content_part.done", {**self._place, "part": text_part(text, self.logprobs)})
        return events, message_item(self._id, status, text, self.logprobs)


class _OpenReasoning:
    def __init__(self, events: EventWriter, item_id: str, index: int) -> None:
        self._events = events
        self._id = item_id
        self._index = index
        self._pieces: list[str] = []
        self._place = {"item_id": item_id, "output_index": index, "content_index": 0}
        self._head = delta_head("reasoning_text.delta", self._place)

    def begin(self) -> bytes:
        item = {**reasoning_item(self._id, "in_progress", ""), "content": []}
        return self._events.event("output_item.added", {"output_index": self._index, "item": item})

    def add(self, text: str) -> bytes:
        self._pieces.append(text)
        return self._events.delta(self._head, text)

    def close(self, status: Status) -> tuple[bytes, dict[str, Any]]:
        text = "".join(self._pieces)
        events = self._events.event("reasoning_text.done", {**self._place, "text": text})
        return events, reasoning_item(self._id, status, text)


class _OpenFunctionCall:
    def __init__(
        self, events: EventWriter, item_id: str, index: int, called: CalledTool, call_id: str
    ) -> None:
        self._events = events
        self._id = item_id
        self._called = called
        self._call_id = call_id
        self._pieces: list[str] = []
        self._place = {"item_id": item_id, "output_index": index}
        self._head = delta_head("function_call_arguments.delta", self._place)

    def add(self, text: str) -> bytes:
        self._pieces.append(text)
        return self._events.delta(self._head, text)

    def close(self, status: Status) -> tuple[bytes, dict[str, Any]]:
        arguments = "".join(self._pieces)
        fields = {**self._place, "name": self._called.name, "arguments": arguments}
        return (
            self._events.event("function_call_arguments.done", fields),
            call_item(self._id, status, self._called, self._call_id, arguments),
        )


class _OpenCustomCall:
    def __init__(
        self, events: EventWriter, item_id: str, index: int, called: CalledTool, call_id: str
    ) -> None:
        self._events = events
        self._id = item_id
        self._called = called
        self._call_id = call_id
        self._input = CustomInput()
        self._sent = False
        self._place = {"item_id": item_id, "output_index": index}
        self._head = delta_head("custom_tool_call_input.delta", self._place)

    def add(self, text: str) -> bytes:
        piece = self._input.add(text)
        if not piece:
            return b""
        self._sent = True
        return self._events.delta(self._head, piece)

    def close(self, status: Status) -> tuple[bytes, dict[str, Any]]:
        text = self._input.text()
        events = b"" if self._sent or not text else self._events.delta(self._head, text)
        events += self._events.event("custom_tool_call_input.done", {**self._place, "input": text})
        return events, call_item(self._id, status, self._called, self._call_id, text)


class _OpenWholeCall:
    """A call of a kind whose arguments are sent at its end only."""

    def __init__(self, item_id: str, called: CalledTool, call_id: str) -> None:
        self._id = item_id
        self._called = called
        self._call_id = call_id
        self._pieces: list[str] = []

    def add(self, text: str) -> bytes:
        self._pieces.append(text)
        return b""

    def close(self, status: Status) -> tuple[bytes, dict[str, Any]]:
        return b"", call_item(self._id, status, self._called, self._call_id, "".join(self._pieces))
