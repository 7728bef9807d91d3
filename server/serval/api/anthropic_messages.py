"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's API in front of the same steps."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope, Send

from serval.api.answering import named_fields
from serval.api.choice import ChoiceAssembler
from serval.api.context import ApiContext
from serval.api.http import header, identity_of, record_of, send_json
from serval.api.models import check_model
from serval.api.preparation import prepared
from serval.api.prompt import declaration_of, declared_tools, rendered_conversation
from serval.api.shortening import Clearing, Render, Shorten, with_cleared_uses
from serval.api.turn import Turn
from serval.caller.priority import HEADER, priority_of
from serval.chat.render import RenderedPrompt
from serval.chat.tool_clearing import ClearToolUses
from serval.chat.truncation import Message
from serval.engine.protocol import GenerationDelta
from serval.errors import ApiError
from serval.tools.events import ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.wire.chat_response import AnsweredChoice, Usage
from serval.wire.messages.answer import error_event, message_body
from serval.wire.messages.context_edits import applied_edits
from serval.wire.messages.decode import (
    FIELDS,
    Reading,
    decode_count_request,
    decode_messages_request,
)
from serval.wire.messages.stream import EventEncoder

_CALL_ID_PREFIX: Final = "toolu_"


class MessagesForm:
    """`AnswerForm` of one request."""

    def __init__(self, model: str, *, max_tokens: int, request_id: str) -> None:
        """`max_tokens`: the limit that the client set, before it was cut to the room left."""
        self._model = model
        self._max_tokens = max_tokens
        self._request_id = request_id
        # Set once the prompt is rendered; None if the request asks for no edits.
        self.applied_edits: Mapping[str, Any] | None = None

    def note_clearing(self, made: Clearing) -> None:
        """Say in the answer what was cleared."""
        self.applied_edits = applied_edits(cleared_uses=made.cleared_uses, cleared_tokens=made.cleared_tokens)

    def body(self, answer_id: str, created: int, choices: Sequence[AnsweredChoice], usage: Usage) -> bytes:
        """See `AnswerForm`."""
        return message_body(
            answer_id,
            model=self._model,
            choice=choices[0],
            usage=usage,
            max_tokens=self._max_tokens,
            context_management=self.applied_edits,
        )

    def stream(self, answer_id: str, created: int, assemblers: Sequence[ChoiceAssembler]) -> "MessagesStream":
        """See `AnswerForm`."""
        return MessagesStream(
            assemblers[0],
            answer_id,
            model=self._model,
            max_tokens=self._max_tokens,
            request_id=self._request_id,
            applied_edits=self.applied_edits,
        )


class MessagesStream:
    """`AnswerStream` of one request."""

    def __init__(
        self,
        assembler: ChoiceAssembler,
        answer_id: str,
        *,
        model: str,
        max_tokens: int,
        request_id: str,
        applied_edits: Mapping[str, Any] | None,
    ) -> None:
        self._assembler = assembler
        self._encoder = EventEncoder()
        self._answer_id = answer_id
        self._model = model
        self._max_tokens = max_tokens
        self._request_id = request_id
        self._applied_edits = applied_edits
        self._begun = False

    def add(self, choice: int, delta: GenerationDelta) -> bytes:
        """See `AnswerStream`."""
        events = self._assembler.add(delta)
        if self._begun and len(events) == 1:
            return self._encoded(events[0])
        encoded = list(map(self._encoded, events))
        if not self._begun:
            # Not before: only the engine's first event says how much of the prompt was cached.
            usage = Usage(delta.prompt_tokens, delta.completion_tokens, delta.cached_tokens)
            encoded.insert(0, self._begin(usage))
        return b"".join(encoded)

    def end(self, usage: Usage) -> bytes:
        """See `AnswerStream`."""
        begin = b"" if self._begun else self._begin(usage)
        end = self._encoder.end(
            self._assembler.answer(),
            usage,
            max_tokens=self._max_tokens,
            context_management=self._applied_edits,
        )
        return begin + end

    def error(self, error: ApiError) -> bytes:
        """See `AnswerStream`."""
        error.request_id = self._request_id
        return error_event(error)

    def _begin(self, usage: Usage) -> bytes:
        self._begun = True
        return self._encoder.begin(self._answer_id, model=self._model, usage=usage)

    def _encoded(self, event: Event) -> bytes:
        if isinstance(event, ContentDelta):
            return self._encoder.text(event.text)
        if isinstance(event, ReasoningDelta):
            return self._encoder.thinking(event.text)
        if isinstance(event, ToolCallStart):
            return self._encoder.tool_use(self._assembler.call_id(event.index), event.name)
        return self._encoder.arguments(event.text)


def decode_messages(context: ApiContext, scope: Scope, body: bytes) -> Turn:
    """Decode and check the body of a request. Raises `ApiError`."""
    record, identity = record_of(scope), identity_of(scope)
    decoded = decode_messages_request(body, _reading(context))
    request = decoded.request
    check_model(request.model, context.model, identity)
    record.model = context.model.name
    record.stream = bool(request.stream)
    assert request.max_completion_tokens is not None
    form = MessagesForm(request.model, max_tokens=request.max_completion_tokens, request_id=record.request_id)
    if decoded.edited:
        form.applied_edits = applied_edits(cleared_uses=0, cleared_tokens=0)
    return Turn(
        request=request,
        priority=priority_of(identity, header(scope, HEADER)),
        form=form,
        id_prefix="msg_",
        call_id_prefix=_CALL_ID_PREFIX,
        deferred_tools=decoded.deferred_tools,
        cut_to_room=True,
        fields=FIELDS,
        shorten=_shorten(decoded.clear_tool_uses, form.note_clearing),
    )


def _shorten(edit: ClearToolUses | None, note: Callable[[Clearing], None]) -> Shorten | None:
    """Return what applies the edit and passes its result to `note`; None without an edit."""
    if edit is None:
        return None

    def shorten(messages: Sequence[Message], render: Render, limit: int) -> RenderedPrompt:
        made = with_cleared_uses(messages, render, limit, edit=edit)
        note(made)
        return made.prompt

    return shorten


def _reading(context: ApiContext) -> Reading:
    settings = context.settings
    return Reading(
        strict_fields=settings.strict_fields,
        non_text_parts=settings.non_text_parts,
        render_billing_block=settings.render_billing_block,
        declaration_of=partial(declaration_of, context.chat),
    )


class CountTokens:
    """Counts the tokens of a prompt. It takes no tokens of the key's limits, and nothing of the engine."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises an `ApiError`, or `ClientGoneError`."""
        context, identity = self._context, identity_of(scope)
        headers = await context.gate.count(identity, record_of(scope))
        with context.bodies.body(identity.subject) as held:
            counted = await prepared(context, scope, receive, held, partial(self._count, scope))
        await send_json(send, msgspec.json.encode(counted), headers=headers)

    def _count(self, scope: Scope, body: bytes) -> dict[str, Any]:
        context, identity = self._context, identity_of(scope)
        decoded = decode_count_request(body, _reading(context))
        request = decoded.request
        check_model(request.model, context.model, identity)
        record_of(scope).model = context.model.name
        tools = declared_tools(request)
        clearings: list[Clearing] = []
        with named_fields(FIELDS):
            rendered = rendered_conversation(
                request,
                tools,
                context,
                caller=identity.subject,
                deferred=msgspec.to_builtins(decoded.deferred_tools),
                limit=context.model.context_length,
                shorten=_shorten(decoded.clear_tool_uses, clearings.append),
            )
        count = len(rendered.input_ids)
        if not decoded.edited:
            return {"input_tokens": count}
        before = clearings[0].original_tokens if clearings else count
        return {"input_tokens": count, "context_management": {"original_input_tokens": before}}
