"""Answering a conversation: the steps that all APIs of conversations share."""

import re
import secrets
import time
from array import array
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from serval.api.cache_debug import CacheDebug, cache_debug
from serval.api.choice import ChoiceAssembler, note_outcome
from serval.api.context import ApiContext
from serval.api.event_stream import EventStream
from serval.api.generation import Generation, OnDelta, always_ready, check_context
from serval.api.http import identity_of, record_of
from serval.api.preparation import in_turn, prepared
from serval.api.prompt import Prompt, prompt_of
from serval.api.reasoning_count import ReasoningCount
from serval.api.sampling import check_end, own_grammar, sampling_params
from serval.api.sending import send_body, send_events
from serval.api.turn import AnswerStream, Turn
from serval.caller.identity import Identity
from serval.chat.own_turns import OwnTurns
from serval.engine.protocol import GenerateRequest, GenerationDelta
from serval.errors import ApiError, InvalidRequestError
from serval.limits.gate import Reservation
from serval.scheduling.body_budget import FREE_BYTES
from serval.telemetry.record import RequestRecord
from serval.wire.chat_request import ChatRequest
from serval.wire.chat_response import Usage
from serval.wire.kept_bytes import kept_bytes

# Decodes the body of a request, and checks it. Runs in a thread for long ones. Raises `ApiError`.
Decode = Callable[[ApiContext, Scope, bytes], Turn]
_AS_NAMED: Final = nullcontext()


class _Job(Struct, frozen=True):
    """A turn and its engine requests, one for each choice."""

    turn: Turn
    # Account whose later requests may send the answer back, and where its tokens are kept for that.
    caller: str
    own_turns: OwnTurns
    prompt_ids: "array[int]"
    generation: Generation
    assemblers: Sequence[ChoiceAssembler]
    created: int
    debug: CacheDebug | None

    @property
    def id(self) -> str:
        return self.generation.requests[0].request_id

    def headers(self) -> Mapping[str, str]:
        headers = self.generation.headers()
        return headers if self.debug is None else {**headers, **self.debug.headers}


class ConversationEndpoint:
    """An endpoint whose requests `decode` reads. `__call__` has the steps of a request, in order."""

    def __init__(self, context: ApiContext, decode: Decode) -> None:
        self._context = context
        self._decode = decode
        controls = {token.content for token in context.chat.tokenizer.control_tokens}
        self._markers_are_tokens = controls.issuperset(context.dialect.reply.markers(calls=True))
        self._think_close = context.chat.tokenizer.control_id(context.dialect.reply.think_close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises an `ApiError` if nothing was sent yet, or `ClientGoneError`."""
        context, record, identity = self._context, record_of(scope), identity_of(scope)
        with context.bodies.body(identity.subject) as held:
            debug = cache_debug(context, scope)
            decoded = partial(self._decoded, scope, debug)
            turn, size = await prepared(context, scope, receive, held, decoded)
            held.shrink_to(size)
            request = turn.request
            with named_fields(turn.fields) if turn.fields else _AS_NAMED:
                async with context.gate.reservation(identity, record, requests=request.n or 1) as reservation:
                    if turn.complete is not None:
                        await turn.complete(held, partial(in_turn, context, scope, receive))
                    grammar = own_grammar(request, identity, context.dialect)
                    work = partial(self._prompt, turn, grammar, debug, identity.subject)
                    prompt = await in_turn(context, scope, receive, held.size, work)
                    held.shrink_to(turn.stored_bytes)
                    limit = self._checked_limit(turn, prompt)
                    await reservation.reserve_tokens(
                        prompt_tokens=len(prompt.input_ids),
                        completion_limit=limit,
                        context_room=context.model.context_length - len(prompt.input_ids),
                    )
                    job = self._job(turn, prompt, reservation, debug, identity=identity, limit=limit)
                    await self._answer(job, scope, receive, send)

    def _decoded(self, scope: Scope, debug: CacheDebug | None, body: bytes) -> tuple[Turn, int]:
        """Return the turn, and the bytes that it holds of the body."""
        turn = self._decode(self._context, scope, body)
        if debug is not None:
            debug.take_body(body)
        elif len(body) > FREE_BYTES and turn.complete is None:
            return turn, kept_bytes(turn.request) + turn.stored_bytes + 4 * len(turn.beginning or ())
        return turn, len(body)

    def _prompt(self, turn: Turn, grammar: str | None, debug: CacheDebug | None, caller: str) -> Prompt:
        prompt = prompt_of(
            turn.request,
            self._context,
            caller=caller,
            grammar=grammar,
            deferred_tools=turn.deferred_tools,
            beginning=turn.beginning,
            shorten=turn.shorten,
        )
        if debug is not None:
            debug.compare(self._context.chat.tokenizer.decode(prompt.input_ids))
        return prompt

    def _checked_limit(self, turn: Turn, prompt: Prompt) -> int | None:
        """Return the limit of the answer's tokens. Raises the errors of a prompt that it does not fit."""
        context, request, length = self._context, turn.request, len(prompt.input_ids)
        limit = completion_limit(request)
        if limit is not None and turn.cut_to_room:
            limit = max(1, min(limit, context.model.context_length - length))
        check_context(length, asked=limit, model=context.model, param="messages")
        check_end(request, limit=limit, grammar=prompt.grammar, tokenizer=context.chat.tokenizer)
        _check_continuation(request, prompt.grammar)
        return limit

    def _job(
        self,
        turn: Turn,
        prompt: Prompt,
        reservation: Reservation,
        debug: CacheDebug | None,
        *,
        identity: Identity,
        limit: int | None,
    ) -> _Job:
        request = turn.request
        choices = range(request.n or 1)
        requests = [
            GenerateRequest(
                request_id=f"{turn.id_prefix}{secrets.token_hex(16)}",
                input_ids=prompt.input_ids,
                sampling=sampling_params(
                    request,
                    max_new_tokens=limit,
                    defaults=self._context.chat.sampling_defaults,
                    choice=choice,
                    keep_special_tokens=True,
                    grammar=prompt.grammar,
                ),
                top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
                tenant=identity.subject,
                priority=turn.priority,
                parts=prompt.parts,
            )
            for choice in choices
        ]
        return _Job(
            turn=turn,
            caller=identity.subject,
            own_turns=self._context.own_turns,
            prompt_ids=prompt.input_ids,
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
                    self._context.dialect.parser(
                        prompt.tools, thinking=prompt.thinking, one_kind=prompt.one_kind
                    ),
                    self._context.chat.tokenizer.token_bytes,
                    markers=self._markers(prompt),
                    parallel_tool_calls=request.parallel_tool_calls is not False,
                    logprobs=bool(request.logprobs),
                    call_id_prefix=turn.call_id_prefix,
                    kept_markers=self._kept_markers(turn, prompt),
                    reasoning=ReasoningCount(is_open=prompt.thinking, close=self._think_close),
                )
                for choice in choices
            ],
            created=int(time.time()),
            debug=debug,
        )

    def _kept_markers(self, turn: Turn, prompt: Prompt) -> Collection[str] | None:
        """Return the control tokens that an answer may hold whose tokens are kept; None if none are."""
        if not prompt.tools and turn.seal is None:
            return None
        return self._context.dialect.reply.markers(calls=bool(prompt.tools))

    def _markers(self, prompt: Prompt) -> Collection[str] | None:
        """Return the markers of an answer; None if its text alone tells them."""
        # A grammar takes the text of a marker for the marker, whichever tokens write it.
        if not self._markers_are_tokens or prompt.grammar is not None:
            return None
        return self._context.dialect.reply.markers(calls=bool(prompt.tools))

    async def _answer(self, job: _Job, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        if not job.turn.request.stream:
            await send_body(_whole(job, record), scope, receive, send, headers=job.headers)
            return
        stream = job.turn.form.stream(job.id, job.created, job.assemblers)
        await send_events(
            partial(_write_events, job, stream, record),
            scope,
            receive,
            send,
            settings=self._context.settings,
            headers=job.headers,
            error_event=stream.error,
        )


async def _whole(job: _Job, record: RequestRecord) -> bytes:
    def on_delta(choice: int, delta: GenerationDelta) -> bool:
        job.assemblers[choice].add(delta)
        return True

    await _generate(job, record, on_delta)
    await _keep(job)
    choices = [assembler.answer() for assembler in job.assemblers]
    return job.turn.form.body(job.id, job.created, choices, _usage(job))


async def _write_events(job: _Job, stream: AnswerStream, record: RequestRecord, to: EventStream) -> None:
    def on_delta(choice: int, delta: GenerationDelta) -> bool:
        events = stream.add(choice, delta)
        return not events or to.write(events)

    await _generate(job, record, on_delta, to.ready)
    await _keep(job)
    to.write(stream.end(_usage(job)))


async def _generate(
    job: _Job, record: RequestRecord, on_delta: OnDelta, ready: Callable[[], Awaitable[None]] = always_ready
) -> None:
    try:
        await job.generation.run(record, on_delta if job.debug is None else job.debug.noting(on_delta), ready)
    finally:
        note_outcome(job.assemblers, record)
        if job.debug is not None:
            job.debug.finish()


def _usage(job: _Job) -> Usage:
    usage = job.generation.usage()
    counted = sum(assembler.reasoning_tokens for assembler in job.assemblers)
    return usage if counted <= usage.reasoning_tokens else replace(usage, reasoning_tokens=counted)


async def _keep(job: _Job) -> None:
    for assembler in job.assemblers:
        own = assembler.own_turn()
        if own is not None:
            job.own_turns.put(job.caller, own)
    if job.turn.seal is not None:
        await job.turn.seal(job.id, job.prompt_ids, job.assemblers[0])
    if job.turn.keep is not None:
        choices = [assembler.answer() for assembler in job.assemblers]
        await job.turn.keep(job.id, choices, _usage(job))


def completion_limit(request: ChatRequest) -> int | None:
    """Return the answer's limit of tokens, or None. The newer field takes precedence."""
    if request.max_completion_tokens is not None:
        return request.max_completion_tokens
    return request.max_tokens


def _check_continuation(request: ChatRequest, grammar: str | None) -> None:
    if request.continue_final_message and grammar is not None:
        raise InvalidRequestError(
            "continue_final_message is not served with tools that must be called or are strict, or"
            " with a response_format: their grammar would begin anew after the text.",
            param="continue_final_message",
            code="unsupported_value",
        )


@contextmanager
def named_fields(fields: Mapping[str, str]) -> Iterator[None]:
    """Rename fields in errors of the block: `fields` has an API's own names by those of Chat Completions."""
    try:
        yield
    except ApiError as error:
        name = None if error.param is None else fields.get(error.param)
        if name is not None:
            error.message = re.sub(rf"\b{error.param}\b", name, error.message)
            error.param = name
        raise
