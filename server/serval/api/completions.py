"""`POST /v1/completions`: completion of a text, without a conversation."""

import secrets
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from serval.api.context import ApiContext, ServedModel
from serval.api.event_stream import EventStream
from serval.api.generation import Generation, check_context
from serval.api.http import header, identity_of, record_of
from serval.api.logprobs import NamedTokens
from serval.api.models import check_model
from serval.api.preparation import in_turn, prepared, within_context
from serval.api.sampling import own_grammar, sampling_params
from serval.api.sending import send_body, send_events
from serval.caller.identity import Identity
from serval.caller.priority import HEADER, Priority, priority_of
from serval.chat.answer_text import WholeCharacters
from serval.chat.long_text import TokenLimitError
from serval.chat.tokenizer import ControlSafeTokenizer
from serval.engine.protocol import EngineFinish, GenerateRequest, GenerationDelta, TokenLogprob
from serval.errors import ContextLengthError, InvalidRequestError
from serval.limits.gate import Reservation
from serval.telemetry.record import RequestRecord
from serval.wire.chat_response import DONE
from serval.wire.completion_request import (
    DEFAULT_MAX_TOKENS,
    CompletionRequest,
    Prompt,
    decode_completion_request,
    prompts_of,
)
from serval.wire.completion_response import (
    TextChunkEncoder,
    TextOffsets,
    text_choice_object,
    text_completion_body,
    text_logprobs_object,
)

# Tokens of all prompts of a request: so many contexts, or this many with a short context.
MAX_BATCH_CONTEXTS = 2
MIN_BATCH_TOKENS = 131_072


@dataclass
class _TextChoice:
    """One choice in progress."""

    index: int
    echo: str
    characters: WholeCharacters
    # None if log-probabilities were not requested.
    names: NamedTokens | None
    pieces: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish_reason: EngineFinish | None = None
    offsets: TextOffsets = field(init=False)

    def __post_init__(self) -> None:
        self.pieces.append(self.echo)
        self.offsets = TextOffsets(len(self.echo))

    def add(self, delta: GenerationDelta) -> tuple[str, Mapping[str, Any] | None]:
        """Add the delta. Return its text, and its log-probabilities if they were requested."""
        text = self.characters.add(delta.text, delta.token_ids, is_last=delta.finish is not None)
        self.pieces.append(text)
        self.finish_reason = delta.finish
        if self.names is None:
            return text, None
        tokens = self.names.of(delta)
        self.tokens += tokens
        return text, text_logprobs_object(tokens, self.offsets)

    def as_object(self) -> dict[str, Any]:
        """Return the whole choice."""
        logprobs = None
        if self.names is not None:
            logprobs = text_logprobs_object(self.tokens, TextOffsets(len(self.echo)))
        text = "".join(self.pieces)
        return text_choice_object(self.index, text, logprobs=logprobs, finish_reason=self.finish_reason)


@dataclass(frozen=True)
class _Decoded:
    """A checked request and its class."""

    request: CompletionRequest
    priority: Priority


@dataclass(frozen=True)
class _Job:
    id: str
    request: CompletionRequest
    generation: Generation
    choices: Sequence[_TextChoice]
    created: int


class Completions:
    """The endpoint. `__call__` has the steps of a request, in order."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises an `ApiError` if nothing was sent yet, or `ClientGoneError`."""
        context, settings, record = self._context, self._context.settings, record_of(scope)
        identity = identity_of(scope)
        with context.bodies.body(identity.subject) as held:
            decoded = await prepared(context, scope, receive, held, partial(self._decode, scope))
            request, priority = decoded.request, decoded.priority
            requests = len(prompts_of(request)) * (request.n or 1)
            async with context.gate.reservation(identity, record, requests=requests) as reservation:
                grammar = own_grammar(request, identity, context.dialect)
                work = partial(self._encode, request)
                prompts = await in_turn(context, scope, receive, held.size, work)
                held.give_back()
                limit = token_limit(request)
                for prompt in prompts:
                    check_context(len(prompt), asked=limit, model=context.model, param="prompt")
                await reservation.reserve_tokens(
                    prompt_tokens=sum(len(prompt) for prompt in prompts), completion_limit=limit
                )
                job = self._job(request, prompts, grammar, reservation, identity=identity, priority=priority)
                headers = reservation.headers
                if request.stream:
                    write = partial(self._write_events, job, record)
                    await send_events(write, scope, receive, send, settings=settings, headers=headers)
                else:
                    await send_body(self._whole(job, record), scope, receive, send, headers=headers)

    def _encode(self, request: CompletionRequest) -> list["array[int]"]:
        context = self._context
        prompts = encoded_prompts(prompts_of(request), context.chat.tokenizer, context.model)
        # The engine may take minutes for the answers, and waiting requests would hold many texts.
        request.prompt = ""
        return prompts

    def _decode(self, scope: Scope, body: bytes) -> _Decoded:
        context, settings, record = self._context, self._context.settings, record_of(scope)
        request = decode_completion_request(
            body,
            max_choices=settings.max_choices,
            max_batch=settings.max_batch,
            strict=settings.strict_fields,
        )
        identity = identity_of(scope)
        check_model(request.model, context.model, identity)
        priority = priority_of(identity, header(scope, HEADER))
        record.model = context.model.name
        record.stream = bool(request.stream)
        return _Decoded(request, priority)

    def _job(
        self,
        request: CompletionRequest,
        prompts: Sequence["array[int]"],
        grammar: str | None,
        reservation: Reservation,
        *,
        identity: Identity,
        priority: Priority,
    ) -> _Job:
        context = self._context
        requests: list[GenerateRequest] = []
        choices: list[_TextChoice] = []
        for prompt in prompts:
            echo = context.chat.tokenizer.decode(prompt) if request.echo else ""
            for choice in range(request.n or 1):
                sampling = sampling_params(
                    request,
                    max_new_tokens=token_limit(request),
                    defaults=context.chat.sampling_defaults,
                    choice=choice,
                    keep_special_tokens=grammar is not None,
                    grammar=grammar,
                )
                request_id = f"cmpl-{secrets.token_hex(16)}"
                requests.append(
                    GenerateRequest(
                        request_id,
                        prompt,
                        sampling,
                        top_logprobs=request.logprobs,
                        tenant=identity.subject,
                        priority=priority,
                    )
                )
                tokens = context.chat.tokenizer.token_bytes
                names = NamedTokens(tokens, skip_special=sampling["skip_special_tokens"])
                choices.append(
                    _TextChoice(
                        len(choices),
                        echo,
                        WholeCharacters(tokens),
                        names=None if request.logprobs is None else names,
                    )
                )
        return _Job(
            id=requests[0].request_id,
            request=request,
            generation=Generation(
                context.engine,
                requests,
                choices=request.n or 1,
                reservation=reservation,
                running=context.running.of(identity),
            ),
            choices=choices,
            created=int(time.time()),
        )

    async def _whole(self, job: _Job, record: RequestRecord) -> bytes:
        def on_delta(index: int, delta: GenerationDelta) -> bool:
            job.choices[index].add(delta)
            return True

        await job.generation.run(record, on_delta)
        record.finish_reason = job.choices[-1].finish_reason
        return text_completion_body(
            job.id,
            created=job.created,
            model=self._context.model.name,
            choices=[choice.as_object() for choice in job.choices],
            usage=job.generation.usage(),
        )

    async def _write_events(self, job: _Job, record: RequestRecord, to: EventStream) -> None:
        options = job.request.stream_options
        include_usage = options is not None and bool(options.include_usage)
        encoder = TextChunkEncoder(
            job.id, created=job.created, model=self._context.model.name, include_usage=include_usage
        )
        echo = b"".join(encoder.text(choice.index, choice.echo) for choice in job.choices if choice.echo)

        def on_delta(index: int, delta: GenerationDelta) -> bool:
            nonlocal echo
            text, logprobs = job.choices[index].add(delta)
            if not (text or delta.finish is not None or delta.logprobs):
                return True
            chunk = encoder.text(index, text, logprobs=logprobs, finish_reason=delta.finish)
            before, echo = echo, b""
            return to.write(before + chunk)

        await job.generation.run(record, on_delta, to.ready)
        record.finish_reason = job.choices[-1].finish_reason
        if include_usage:
            to.write(encoder.usage(job.generation.usage()))
        to.write(DONE)


def token_limit(request: CompletionRequest) -> int:
    """Return the limit of tokens of each completion."""
    return DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens


def encoded_prompts(
    prompts: Sequence[Prompt], tokenizer: ControlSafeTokenizer, model: ServedModel
) -> list["array[int]"]:
    """Return the token ids of each prompt.

    Raises `ContextLengthError` if one is longer than the model's context or all are together over
    `MAX_BATCH_CONTEXTS` times as long, and `InvalidRequestError` as `prompt_ids` does.
    """
    limit = model.max_prompt_tokens
    most = room = max(limit * MAX_BATCH_CONTEXTS, MIN_BATCH_TOKENS)
    encoded = []
    for prompt in prompts:
        with within_context(model, tokens=limit, param="prompt"):
            encoded.append(prompt_ids(prompt, tokenizer, limit=limit))
        room -= len(encoded[-1])
        if room < 0:
            raise ContextLengthError(
                f"The {len(prompts)} prompts of this request have more than {most} tokens together, the most"
                " in one request. Send fewer at a time.",
                param="prompt",
            )
    return encoded


def prompt_ids(prompt: Prompt, tokenizer: ControlSafeTokenizer, *, limit: int) -> "array[int]":
    """Return the prompt's token ids. Text never becomes control tokens; ids may name any token.

    Raises `TokenLimitError` at more than `limit` ids, and `InvalidRequestError` for an unknown id, or a
    prompt without tokens.
    """
    if isinstance(prompt, str):
        ids = tokenizer.encode_text(prompt, limit=limit)
    elif len(prompt) > limit:
        raise TokenLimitError
    else:
        check_token_ids(prompt, tokenizer, param="prompt")
        ids = array("I", prompt)
    if not ids:
        raise InvalidRequestError("prompt is empty; send at least one token.", param="prompt")
    return ids


def check_token_ids(ids: Sequence[int], tokenizer: ControlSafeTokenizer, *, param: str) -> None:
    """Raise `InvalidRequestError` unless all ids are tokens: others would index past the engine's tables."""
    if ids and not (min(ids) >= 0 and max(ids) < tokenizer.vocabulary_size):
        wrong = next(token_id for token_id in ids if not 0 <= token_id < tokenizer.vocabulary_size)
        raise InvalidRequestError(
            f"{param} holds the token id {wrong}; ids are from 0 to {tokenizer.vocabulary_size - 1}.",
            param=param,
        )
