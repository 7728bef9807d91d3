"""`POST /v1/chat/completions`: decoding of its requests, and the form of its answers."""

from collections.abc import Sequence

from msgspec import Struct
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
from serval.wire.chat_decode import decode_chat_request
from serval.wire.chat_response import (
    DONE,
    AnsweredChoice,
    ChunkEncoder,
    Usage,
    choice_object,
    completion_body,
    error_event,
)
from serval.wire.legacy_functions import LegacyChunkEncoder, is_legacy, legacy_choice_object


def decode_chat(context: ApiContext, scope: Scope, body: bytes) -> Turn:
    """Decode a request of Chat Completions. Raises `ApiError`."""
    record, settings, identity = record_of(scope), context.settings, identity_of(scope)
    request = decode_chat_request(
        body,
        max_choices=settings.max_choices,
        strict=settings.strict_fields,
        non_text_parts=settings.non_text_parts,
    )
    check_model(request.model, context.model, identity)
    record.model = context.model.name
    record.stream = bool(request.stream)
    priority = priority_of(identity, header(scope, HEADER), request.service_tier)
    options = request.stream_options
    form = ChatForm(
        model=request.model,
        legacy=is_legacy(request),
        include_usage=options is not None and bool(options.include_usage),
        service_tier=None if request.service_tier is None else tier_of(priority),
    )
    return Turn(request, priority, form, cut_to_room=settings.max_tokens_beyond_context == "cut")


class ChatForm(Struct, frozen=True):
    """`AnswerForm` of Chat Completions."""

    # Model and service tier to be named in the answer.
    model: str
    legacy: bool
    include_usage: bool
    service_tier: str | None

    def body(self, answer_id: str, created: int, choices: Sequence[AnsweredChoice], usage: Usage) -> bytes:
        """See `AnswerForm`."""
        as_object = legacy_choice_object if self.legacy else choice_object
        return completion_body(
            answer_id,
            created=created,
            model=self.model,
            choices=[as_object(choice) for choice in choices],
            usage=usage,
            service_tier=self.service_tier,
        )

    def stream(self, answer_id: str, created: int, assemblers: Sequence[ChoiceAssembler]) -> "ChatStream":
        """See `AnswerForm`."""
        make_encoder = LegacyChunkEncoder if self.legacy else ChunkEncoder
        encoder = make_encoder(
            answer_id,
            created=created,
            model=self.model,
            include_usage=self.include_usage,
            service_tier=self.service_tier,
        )
        return ChatStream(assemblers, encoder, include_usage=self.include_usage)


class ChatStream:
    """`AnswerStream` of Chat Completions."""

    def __init__(
        self, assemblers: Sequence[ChoiceAssembler], encoder: ChunkEncoder, *, include_usage: bool
    ) -> None:
        self._choices = [ChoiceStream(assembler, encoder) for assembler in assemblers]
        self._encoder = encoder
        self._include_usage = include_usage

    def add(self, choice: int, delta: GenerationDelta) -> bytes:
        """See `AnswerStream`."""
        return self._choices[choice].add(delta)

    def end(self, usage: Usage) -> bytes:
        """See `AnswerStream`."""
        return self._encoder.usage(usage) + DONE if self._include_usage else DONE

    def error(self, error: ApiError) -> bytes:
        """See `AnswerStream`."""
        return error_event(error)


class ChoiceStream:
    """Encodes one choice as stream chunks."""

    def __init__(self, assembler: ChoiceAssembler, encoder: ChunkEncoder) -> None:
        self._assembler = assembler
        self._encoder = encoder
        self._begun = False

    def add(self, delta: GenerationDelta) -> bytes:
        """Add the delta, and return its chunks, joined. The last delta brings the finish chunk."""
        index = self._assembler.index
        events = self._assembler.add(delta)
        if self._begun and len(events) == 1 and delta.finish is None:
            return self._chunk(events[0])
        chunks = [] if self._begun else [self._encoder.role(index)]
        self._begun = True
        chunks += [self._chunk(event) for event in events]
        if self._assembler.finish_reason is not None:
            rest = self._assembler.take_logprobs() or None
            chunks.append(self._encoder.finish(index, self._assembler.finish_reason, logprobs=rest))
        return b"".join(chunks)

    def _chunk(self, event: Event) -> bytes:
        index, encoder = self._assembler.index, self._encoder
        if isinstance(event, ContentDelta):
            return encoder.content(index, event.text, logprobs=self._assembler.take_logprobs())
        if isinstance(event, ReasoningDelta):
            return encoder.reasoning(index, event.text)
        if isinstance(event, ToolCallStart):
            call_id = self._assembler.call_id(event.index)
            return encoder.tool_call(index, call=event.index, call_id=call_id, name=event.name)
        return encoder.arguments(index, call=event.index, text=event.text)
