"""The form of an answer in the Responses API: whole, streamed, and as it is kept."""

import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from serval.api.choice import ChoiceAssembler
from serval.engine.protocol import GenerationDelta
from serval.errors import ApiError
from serval.tools.events import ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.wire.chat_response import AnsweredChoice, Usage
from serval.wire.responses.events import EventWriter
from serval.wire.responses.item_events import ItemEvents, item_id
from serval.wire.responses.output import Status, sealed_item
from serval.wire.responses.response import ResponseStatus, response_object, status_of
from serval.wire.responses.tools import CalledTool

_encode = msgspec.json.Encoder().encode


class ResponsesForm:
    """`AnswerForm` of one request. `stored` says whether its answer is kept, as far as known.

    `sealed` is the sealed turn that the answer ends with, from when there is one.
    """

    def __init__(
        self,
        repeated: Mapping[str, Any],
        called: Mapping[str, CalledTool],
        *,
        stored: bool,
    ) -> None:
        """`repeated`: the answer's fields that repeat the request; `called`: tools, by the model's names."""
        self.stored = stored
        self.sealed: str | None = None
        self._repeated = repeated
        self._called = called
        # Known before the walk's, because an answer is kept before it is encoded.
        self._created = int(time.time())
        self._stream: ResponsesStream | None = None

    def body(self, answer_id: str, created: int, choices: Sequence[AnsweredChoice], usage: Usage) -> bytes:
        """See `AnswerForm`."""
        choice = choices[0]
        status = status_of(choice.finish_reason)
        return _encode(self.object(answer_id, status, self.items(answer_id, choice), usage=usage))

    def stream(
        self, answer_id: str, created: int, assemblers: Sequence[ChoiceAssembler]
    ) -> "ResponsesStream":
        """See `AnswerForm`."""
        self._stream = ResponsesStream(self, answer_id, assemblers[0], self._called)
        return self._stream

    def items(self, answer_id: str, choice: AnsweredChoice) -> list[dict[str, Any]]:
        """Return the items of a finished answer: those that were streamed, or would have been."""
        items = self._answered_items(answer_id, choice)
        return items if self.sealed is None else [*items, self.sealed_item(answer_id, len(items))]

    def sealed_item(self, answer_id: str, index: int) -> dict[str, Any]:
        """Return the item with the sealed turn."""
        return sealed_item(item_id("rs", answer_id, index), self.sealed or "")

    def _answered_items(self, answer_id: str, choice: AnsweredChoice) -> list[dict[str, Any]]:
        if self._stream is not None:
            return self._stream.items
        made = ItemEvents(answer_id, self._called, EventWriter())
        if choice.reasoning:
            made.reasoning(choice.reasoning)
        if choice.content:
            made.content(choice.content, _scores_of_text(choice))
        for call in choice.tool_calls:
            made.call(call.id, call.name)
            made.arguments(call.arguments)
        made.finish(_last_status(choice))
        return made.items

    def object(
        self,
        answer_id: str,
        status: ResponseStatus,
        items: Sequence[Mapping[str, Any]] = (),
        *,
        usage: Usage | None = None,
        error: ApiError | None = None,
    ) -> dict[str, Any]:
        """Return the response object."""
        return response_object(
            answer_id,
            self._created,
            status,
            {**self._repeated, "store": self.stored},
            output=items,
            usage=usage,
            error=error,
        )


class ResponsesStream:
    """`AnswerStream` of one request."""

    def __init__(
        self,
        form: ResponsesForm,
        answer_id: str,
        assembler: ChoiceAssembler,
        called: Mapping[str, CalledTool],
    ) -> None:
        self._form = form
        self._id = answer_id
        self._assembler = assembler
        self._events = EventWriter()
        self._items = ItemEvents(answer_id, called, self._events)
        self._begun = False

    @property
    def items(self) -> list[dict[str, Any]]:
        """Finished items."""
        return self._items.items

    def add(self, choice: int, delta: GenerationDelta) -> bytes:
        """See `AnswerStream`."""
        events = self._assembler.add(delta)
        if self._begun and len(events) == 1 and delta.finish is None:
            return self._encoded(events[0])
        encoded = [] if self._begun else [self._begin()]
        encoded += map(self._encoded, events)
        if delta.finish is not None:
            self._items.add_scores(self._assembler.take_logprobs() or ())
            encoded.append(self._items.finish(_last_status(self._assembler.answer())))
        return b"".join(encoded)

    def end(self, usage: Usage) -> bytes:
        """See `AnswerStream`."""
        status = status_of(self._assembler.finish_reason or "stop")
        sealed = b""
        if self._form.sealed is not None:
            sealed = self._items.add_sealed(self._form.sealed_item(self._id, len(self.items)))
        response = self._form.object(self._id, status, self.items, usage=usage)
        return sealed + self._events.event(status, {"response": response})

    def error(self, error: ApiError) -> bytes:
        """See `AnswerStream`."""
        begin = b"" if self._begun else self._begin()
        failed = self._form.object(self._id, "failed", self.items, error=error)
        return begin + self._events.event("failed", {"response": failed})

    def _begin(self) -> bytes:
        self._begun = True
        response = self._form.object(self._id, "in_progress")
        return b"".join(
            self._events.event(kind, {"response": response}) for kind in ("created", "in_progress")
        )

    def _encoded(self, event: Event) -> bytes:
        if isinstance(event, ContentDelta):
            return self._items.content(event.text, self._assembler.take_logprobs())
        if isinstance(event, ReasoningDelta):
            return self._items.reasoning(event.text)
        if isinstance(event, ToolCallStart):
            return self._items.call(self._assembler.call_id(event.index), event.name)
        return self._items.arguments(event.text)


def _last_status(choice: AnsweredChoice) -> Status:
    """Return the status of the answer's last item."""
    if choice.finish_reason != "length":
        return "completed"
    return "incomplete" if choice.cut_call or not choice.tool_calls else "completed"


def _scores_of_text(choice: AnsweredChoice) -> Sequence[Mapping[str, Any]] | None:
    """Return the log-probabilities of the text's tokens: without those of the calls behind it."""
    if choice.logprobs is None or not choice.tool_calls or choice.reasoning:
        return choice.logprobs
    length = len(choice.content.encode())
    ends = accumulate(len(score["bytes"] or ()) for score in choice.logprobs)
    return [score for score, end in zip(choice.logprobs, ends, strict=True) if end <= length]
