"""`POST /v1/responses`: OpenAI's Responses API in front of the steps that all APIs of conversations share."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.types import Scope

from serval.api.choice import ChoiceAssembler
from serval.api.context import ApiContext
from serval.api.http import header, identity_of, record_of
from serval.api.models import check_model
from serval.api.turn import Turn
from serval.caller.priority import HEADER, priority_of, tier_of
from serval.engine.protocol import GenerationDelta
from serval.errors import ApiError
from serval.tools.events import ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.wire.chat_request import Tool
from serval.wire.chat_response import AnsweredChoice, Usage
from serval.wire.responses.decode import (
    FIELDS,
    DecodedResponses,
    add_messages,
    decode_responses_request,
    known_tier,
)
from serval.wire.responses.events import EventWriter
from serval.wire.responses.item_events import ItemEvents
from serval.wire.responses.output import Status
from serval.wire.responses.response import Answer, repeated_fields, status_of
from serval.wire.responses.tools import CalledTool

_encode = msgspec.json.Encoder().encode


class ResponsesForm:
    """`AnswerForm` of one request."""

    def __init__(
        self, repeated: Mapping[str, Any], called: Mapping[str, CalledTool], *, logprobs: bool
    ) -> None:
        """`repeated`: the answer's fields that repeat the request; `called`: tools, by the model's names."""
        self._repeated = repeated
        self._called = called
        self._logprobs = logprobs

    def body(self, answer_id: str, created: int, choices: Sequence[AnsweredChoice], usage: Usage) -> bytes:
        """See `AnswerForm`."""
        choice = choices[0]
        answer = Answer(answer_id, created, self._repeated, stored=False)
        return _encode(
            answer.object(status_of(choice.finish_reason), self.items(answer_id, choice), usage=usage)
        )

    def stream(
        self, answer_id: str, created: int, assemblers: Sequence[ChoiceAssembler]
    ) -> "ResponsesStream":
        """See `AnswerForm`."""
        answer = Answer(answer_id, created, self._repeated, stored=False)
        return ResponsesStream(answer, assemblers[0], self._called, logprobs=self._logprobs)

    def items(self, answer_id: str, choice: AnsweredChoice) -> list[dict[str, Any]]:
        """Return the items of a whole answer, which are those of a streamed one."""
        made = ItemEvents(answer_id, self._called, EventWriter())
        if choice.reasoning:
            made.reasoning(choice.reasoning)
        if choice.content:
            made.content(choice.content, choice.logprobs)
        for call in choice.tool_calls:
            made.call(call.id, call.name)
            made.arguments(call.arguments)
        made.finish(_last_status(choice))
        return made.items


class ResponsesStream:
    """`AnswerStream` of one request."""

    def __init__(
        self,
        answer: Answer,
        assembler: ChoiceAssembler,
        called: Mapping[str, CalledTool],
        *,
        logprobs: bool,
    ) -> None:
        self._answer = answer
        self._assembler = assembler
        self._events = EventWriter()
        self._items = ItemEvents(answer.id, called, self._events)
        self._logprobs = logprobs
        self._begun = False

    def add(self, choice: int, delta: GenerationDelta) -> bytes:
        """See `AnswerStream`."""
        events = self._assembler.add(delta)
        if self._begun and len(events) == 1 and delta.finish is None:
            return self._encoded(events[0])
        encoded = [] if self._begun else [self._begin()]
        encoded += map(self._encoded, events)
        if delta.finish is not None:
            encoded.append(self._items.finish(_last_status(self._assembler.answer())))
        return b"".join(encoded)

    def end(self, usage: Usage) -> bytes:
        """See `AnswerStream`."""
        status = status_of(self._assembler.finish_reason or "stop")
        response = self._answer.object(status, self._items.items, usage=usage)
        return self._events.event(status, {"response": response})

    def error(self, error: ApiError) -> bytes:
        """See `AnswerStream`."""
        begin = b"" if self._begun else self._begin()
        failed = self._answer.object("failed", self._items.items, error=error)
        return begin + self._events.event("failed", {"response": failed})

    def _begin(self) -> bytes:
        self._begun = True
        response = self._answer.object("in_progress")
        return b"".join(
            self._events.event(kind, {"response": response}) for kind in ("created", "in_progress")
        )

    def _encoded(self, event: Event) -> bytes:
        if isinstance(event, ContentDelta):
            return self._items.content(event.text, self._assembler.new_logprobs if self._logprobs else None)
        if isinstance(event, ReasoningDelta):
            return self._items.reasoning(event.text)
        if isinstance(event, ToolCallStart):
            return self._items.call(self._assembler.call_id(event.index), event.name)
        return self._items.arguments(event.text)


def decode_responses(context: ApiContext, scope: Scope, body: bytes) -> Turn:
    """Decode and check the body of a request. Raises `ApiError`."""
    record, identity, settings = record_of(scope), identity_of(scope), context.settings
    decoded = decode_responses_request(body, strict=settings.strict_fields)
    request = decoded.request
    check_model(request.model, context.model, identity)
    record.model = context.model.name
    record.stream = bool(request.stream)
    priority = priority_of(identity, header(scope, HEADER), known_tier(request))
    _complete(context, decoded)
    return Turn(
        request=decoded.chat,
        priority=priority,
        form=ResponsesForm(
            repeated_fields(request, service_tier=tier_of(priority)),
            decoded.tools.called,
            logprobs=bool(decoded.chat.logprobs),
        ),
        id_prefix="resp_",
        deferred_tools=decoded.tools.deferred,
        cut_to_room=True,
        fields=FIELDS,
    )


def _complete(context: ApiContext, decoded: DecodedResponses) -> None:
    add_messages(
        decoded,
        non_text_parts=context.settings.non_text_parts,
        declare=partial(_declaration, context),
    )


def _declaration(context: ApiContext, tool: Tool) -> str:
    declared: dict[str, Any] = msgspec.to_builtins(tool)
    return context.chat.declarations.text_of(declared)


def _last_status(choice: AnsweredChoice) -> Status:
    """Return the status of the answer's last item."""
    if choice.finish_reason != "length":
        return "completed"
    return "incomplete" if choice.cut_call or not choice.tool_calls else "completed"
