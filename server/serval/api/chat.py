"""`POST /v1/chat/completions`."""

import secrets
import time
from array import array
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope, Send

from serval.api.choice import ChoiceAssembler, ChoiceStream, count_tool_calls
from serval.api.context import ApiContext
from serval.api.event_stream import EventStream
from serval.api.generation import Generation, check_context
from serval.api.http import header, identity_of, record_of
from serval.api.models import check_model
from serval.api.preparation import in_turn, prepared, within_context
from serval.api.sampling import check_end, own_grammar, sampling_params
from serval.api.sending import send_body, send_events
from serval.caller.identity import Identity
from serval.caller.priority import HEADER, Priority, priority_of, tier_of
from serval.engine.protocol import GenerateRequest, GenerationDelta
from serval.errors import InvalidRequestError
from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialect import Dialect
from serval.limits.gate import Reservation
from serval.schema.error import SchemaError
from serval.telemetry.record import RequestRecord
from serval.wire.chat_decode import decode_chat_request
from serval.wire.chat_request import ChatRequest
from serval.wire.chat_response import DONE, ChunkEncoder, choice_object, completion_body
from serval.wire.legacy_functions import LegacyChunkEncoder, is_legacy, legacy_choice_object
from serval.wire.thinking import template_options


class _Prompt(Struct, frozen=True):
    """Input of the model, and the grammar that constrains its output."""

    input_ids: "array[int]"
    tools: Sequence[Mapping[str, Any]]
    grammar: str | None
    # The answer is either calls or one text, which may quote a call.
    one_kind: bool


class _Decoded(Struct, frozen=True):
    """A checked request and its class."""

    request: ChatRequest
    priority: Priority


class _Job(Struct, frozen=True):
    """A validated request and its engine requests, one for each choice."""

    request: ChatRequest
    generation: Generation
    assemblers: Sequence[ChoiceAssembler]
    created: int
    # Service tier to be named in the answer.
    service_tier: str | None

    @property
    def id(self) -> str:
        return self.generation.requests[0].request_id


class ChatCompletions:
    """The endpoint. `__call__` has the steps of a request, in order."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        controls = {token.content for token in context.chat.tokenizer.control_tokens}
        self._markers_are_tokens = controls.issuperset(context.dialect.reply.markers(calls=True))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises an `ApiError` if nothing was sent yet, or `ClientGoneError`."""
        context, record = self._context, record_of(scope)
        settings, identity = context.settings, identity_of(scope)
        with context.bodies.body(identity.subject) as held:
            decoded = await prepared(context, scope, receive, held, partial(self._decode, scope))
            request, priority = decoded.request, decoded.priority
            async with context.gate.reservation(identity, record, requests=request.n or 1) as reservation:
                grammar = own_grammar(request, identity, context.dialect)
                work = partial(self._prompt, request, grammar)
                prompt = await in_turn(context, scope, receive, held.size, work)
                held.give_back()
                length, limit = len(prompt.input_ids), completion_limit(request)
                check_context(length, asked=limit, model=context.model, param="messages")
                check_end(request, limit=limit, grammar=prompt.grammar, tokenizer=context.chat.tokenizer)
                _check_continuation(request, prompt.grammar)
                await reservation.reserve_tokens(
                    prompt_tokens=length,
                    completion_limit=limit,
                    context_room=context.model.context_length - length,
                )
                job = self._job(request, prompt, reservation, identity=identity, priority=priority)
                headers = reservation.headers
                if request.stream:
                    write = partial(self._write_events, job, record)
                    await send_events(write, scope, receive, send, settings=settings, headers=headers)
                else:
                    await send_body(self._whole(job, record), scope, receive, send, headers=headers)

    def _decode(self, scope: Scope, body: bytes) -> _Decoded:
        context, record, settings = self._context, record_of(scope), self._context.settings
        request = decode_chat_request(
            body,
            max_choices=settings.max_choices,
            strict=settings.strict_fields,
            non_text_parts=settings.non_text_parts,
        )
        identity = identity_of(scope)
        check_model(request.model, context.model, identity)
        record.model = context.model.name
        record.stream = bool(request.stream)
        priority = priority_of(identity, header(scope, HEADER), request.service_tier)
        return _Decoded(request, priority)

    def _prompt(self, request: ChatRequest, grammar: str | None) -> _Prompt:
        context, tools = self._context, declared_tools(request)
        input_ids = conversation_ids(request, tools, context, limit=context.model.max_prompt_tokens)
        # The engine may take minutes for the answer, and waiting requests would hold many conversations.
        request.messages.clear()
        wants_json = request.response_format is not None and request.response_format.type != "text"
        return _Prompt(
            array("I", input_ids),
            tools,
            grammar or grammar_of(request, tools, context.dialect),
            one_kind=grammar is not None or wants_json,
        )

    def _job(
        self,
        request: ChatRequest,
        prompt: _Prompt,
        reservation: Reservation,
        *,
        identity: Identity,
        priority: Priority,
    ) -> _Job:
        choices = range(request.n or 1)
        requests = [
            GenerateRequest(
                request_id=f"chatcmpl-{secrets.token_hex(16)}",
                input_ids=prompt.input_ids,
                sampling=sampling_params(
                    request,
                    max_new_tokens=completion_limit(request),
                    defaults=self._context.chat.sampling_defaults,
                    choice=choice,
                    keep_special_tokens=True,
                    grammar=prompt.grammar,
                ),
                top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
                tenant=identity.subject,
                priority=priority,
            )
            for choice in choices
        ]
        return _Job(
            request=request,
            generation=Generation(
                self._context.engine,
                requests,
                choices=len(choices),
                reservation=reservation,
                running=self._context.running.of(identity),
            ),
            assemblers=[
                ChoiceAssembler(
                    choice,
                    self._context.dialect.parser(prompt.tools, one_kind=prompt.one_kind),
                    self._context.chat.tokenizer.token_bytes,
                    markers=self._markers(prompt),
                    parallel_tool_calls=request.parallel_tool_calls is not False,
                    logprobs=bool(request.logprobs),
                )
                for choice in choices
            ],
            created=int(time.time()),
            service_tier=None if request.service_tier is None else tier_of(priority),
        )

    def _markers(self, prompt: _Prompt) -> Collection[str] | None:
        """Return the markers of an answer; None if its text alone tells them."""
        # A grammar takes the text of a marker for the marker, whichever tokens write it.
        if not self._markers_are_tokens or prompt.grammar is not None:
            return None
        return self._context.dialect.reply.markers(calls=bool(prompt.tools))

    async def _whole(self, job: _Job, record: RequestRecord) -> bytes:
        def on_delta(choice: int, delta: GenerationDelta) -> bool:
            job.assemblers[choice].add(delta)
            return True

        try:
            await job.generation.run(record, on_delta)
        finally:
            note_outcome(job.assemblers, record)
        as_object = legacy_choice_object if is_legacy(job.request) else choice_object
        return completion_body(
            job.id,
            created=job.created,
            model=job.request.model,
            choices=[as_object(assembler.answer()) for assembler in job.assemblers],
            usage=job.generation.usage(),
            service_tier=job.service_tier,
        )

    async def _write_events(self, job: _Job, record: RequestRecord, to: EventStream) -> None:
        options = job.request.stream_options
        include_usage = options is not None and bool(options.include_usage)
        make_encoder = LegacyChunkEncoder if is_legacy(job.request) else ChunkEncoder
        encoder = make_encoder(
            job.id,
            created=job.created,
            model=job.request.model,
            include_usage=include_usage,
            service_tier=job.service_tier,
        )
        streams = [
            ChoiceStream(assembler, encoder, logprobs=bool(job.request.logprobs))
            for assembler in job.assemblers
        ]

        def on_delta(choice: int, delta: GenerationDelta) -> bool:
            chunks = streams[choice].add(delta)
            return not chunks or to.write(chunks)

        try:
            await job.generation.run(record, on_delta, to.ready)
        finally:
            note_outcome(job.assemblers, record)
        if include_usage:
            to.write(encoder.usage(job.generation.usage()))
        to.write(DONE)


def completion_limit(request: ChatRequest) -> int | None:
    """Return the answer's limit of tokens, or None. The newer field takes precedence."""
    if request.max_completion_tokens is not None:
        return request.max_completion_tokens
    return request.max_tokens


def declared_tools(request: ChatRequest) -> list[dict[str, Any]]:
    """Return the tools declared to the model: none if the tool choice is 'none'."""
    if not request.tools or request.tool_choice == "none":
        return []
    tools: list[dict[str, Any]] = msgspec.to_builtins(request.tools)
    return tools


def conversation_ids(
    request: ChatRequest, tools: Sequence[Mapping[str, Any]], context: ApiContext, *, limit: int
) -> list[int]:
    """Return the token ids of the conversation. Raises `ContextLengthError` if they are more than `limit`."""
    with within_context(context.model, tokens=limit, param="messages"):
        rendered = context.chat.render(
            msgspec.to_builtins(request.messages),
            tools=tools,
            options=template_options(request, context.chat.template_variables),
            continued=bool(request.continue_final_message),
            limit=limit,
        )
    return rendered.input_ids


def _check_continuation(request: ChatRequest, grammar: str | None) -> None:
    if request.continue_final_message and grammar is not None:
        raise InvalidRequestError(
            "continue_final_message is not served with tools that must be called or are strict, or"
            " with a response_format: their grammar would begin anew after the text.",
            param="continue_final_message",
            code="unsupported_value",
        )


def grammar_of(request: ChatRequest, tools: Sequence[Mapping[str, Any]], dialect: Dialect) -> str | None:
    """Return the grammar of the requested calls or JSON, as JSON text; None if the answer is unconstrained.

    Raises `InvalidRequestError`, naming the place, for a schema that cannot be enforced as requested.
    """
    choice: Any = msgspec.to_builtins(request.tool_choice or "auto")
    allowed = choice.get("allowed_tools") if isinstance(choice, dict) else None
    if allowed is not None:
        names = {tool["function"]["name"] for tool in allowed["tools"]}
        tools = [tool for tool in tools if tool["function"]["name"] in names]
        choice = allowed["mode"]
    try:
        return answer_grammar(
            dialect,
            tools,
            tool_choice=choice,
            parallel_tool_calls=request.parallel_tool_calls is not False,
            response_format=msgspec.to_builtins(request.response_format),
            exclusive=allowed is not None,
        )
    except SchemaError as error:
        param = "response_format" if error.path.startswith("response_format") else "tools"
        raise InvalidRequestError(f"Invalid schema in '{param}': {error}", param=param) from error


def note_outcome(assemblers: Sequence[ChoiceAssembler], record: RequestRecord) -> None:
    """Record the finish reason and the tool calls of the choices."""
    for assembler in assemblers:
        if assembler.finish_reason is not None:
            record.finish_reason = assembler.finish_reason
            if assembler.has_calls:
                count_tool_calls(assembler.answer(), record)
