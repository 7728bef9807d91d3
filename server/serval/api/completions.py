"""`POST /v1/completions`: completion of a text, without a conversation."""

import secrets
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from starlette.types import Receive, Scope, Send

from serval.api.context import ApiContext, ServedModel
from serval.api.event_stream import EventStream
from serval.api.generation import Generation, check_context
from serval.api.http import header, identity_of, record_of
from serval.api.logprobs import NamedTokens
from serval.api.models import check_model
from serval.api.preparation import beyond_context, in_turn, prepared
from serval.api.sampling import (
    WHOLE_ANSWER_STREAM_INTERVAL,
    check_end,
    check_token_ids,
    own_grammar,
    sampling_params,
)
from serval.api.sending import send_body, send_events
from serval.api.text_choice import TextChoice, check_scores
from serval.caller.identity import Identity
from serval.caller.priority import HEADER, Priority, priority_of
from serval.chat.answer_text import WholeCharacters
from serval.chat.long_text import TokenLimitError
from serval.chat.tokenizer import ControlSafeTokenizer
from serval.engine.protocol import GenerateRequest, GenerationDelta
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
    scores_prompt,
)
from serval.wire.completion_response import TextChunkEncoder, text_completion_body

# Tokens of all prompts of a request: so many contexts, or this many with a short context.
MAX_BATCH_CONTEXTS = 2
MIN_BATCH_TOKENS = 131_072
# The engine sends few events for a request whose prompt it scores, because each repeats the scores.
_EVENTS_OF_SCORED_PROMPT = 4


@dataclass(frozen=True)
class Decoded:
    """A checked request and its class."""

    request: CompletionRequest
    priority: Priority


@dataclass(frozen=True)
class _Job:
    id: str
    request: CompletionRequest
    generation: Generation
    choices: Sequence[TextChoice]
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
            decode = partial(decode_completion, context, scope)
            decoded = await prepared(context, scope, receive, held, decode)
            request, priority = decoded.request, decoded.priority
            requests = len(prompts_of(request)) * (request.n or 1)
            async with context.gate.reservation(identity, record, requests=requests) as reservation:
                grammar = own_grammar(request, identity, context.dialect)
                work = partial(self._encode, request)
                prompts = await in_turn(context, scope, receive, held.size, work)
                held.give_back()
                limit = token_limit(request)
                check_end(request, limit=limit, grammar=grammar, tokenizer=context.chat.tokenizer)
                for prompt in prompts:
                    check_context(len(prompt), asked=limit, model=context.model, param="prompt")
                if scores_prompt(request):
                    check_scores([len(prompt) for prompt in prompts], request)
                await reservation.reserve_tokens(
                    prompt_tokens=sum(len(prompt) for prompt in prompts), completion_limit=limit
                )
                job = self._job(request, prompts, grammar, reservation, identity=identity, priority=priority)
                headers = job.generation.headers
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
        choices: list[TextChoice] = []
        scored = scores_prompt(request)
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
                if scored:
                    interval = -(-token_limit(request) // _EVENTS_OF_SCORED_PROMPT)
                    sampling["stream_interval"] = max(interval, WHOLE_ANSWER_STREAM_INTERVAL)
                request_id = f"cmpl-{secrets.token_hex(16)}"
                requests.append(
                    GenerateRequest(
                        request_id,
                        prompt,
                        sampling,
                        top_logprobs=request.logprobs,
                        prompt_logprobs=scored,
                        tenant=identity.subject,
                        priority=priority,
                    )
                )
                tokens = context.chat.tokenizer.token_bytes
                names = NamedTokens(tokens, skip_special=sampling["skip_special_tokens"])
                choices.append(
                    TextChoice(
                        len(choices),
                        echo,
                        WholeCharacters(tokens),
                        names=None if request.logprobs is None else names,
                        # The echo holds the names of control tokens.
                        prompt_names=NamedTokens(tokens, skip_special=False) if scored else None,
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
            model=job.request.model,
            choices=[choice.as_object() for choice in job.choices],
            usage=job.generation.usage(),
        )

    async def _write_events(self, job: _Job, record: RequestRecord, to: EventStream) -> None:
        options = job.request.stream_options
        include_usage = options is not None and bool(options.include_usage)
        encoder = TextChunkEncoder(
            job.id, created=job.created, model=job.request.model, include_usage=include_usage
        )

        def on_delta(index: int, delta: GenerationDelta) -> bool:
            text, logprobs = job.choices[index].add(delta)
            if not (text or delta.finish is not None or delta.logprobs):
                return True
            return to.write(encoder.text(index, text, logprobs=logprobs, finish_reason=delta.finish))

        await job.generation.run(record, on_delta, to.ready)
        record.finish_reason = job.choices[-1].finish_reason
        if include_usage:
            to.write(encoder.usage(job.generation.usage()))
        to.write(DONE)


def decode_completion(context: ApiContext, scope: Scope, body: bytes) -> Decoded:
    """Decode and check the body of a request. Raises `ApiError`."""
    settings, record = context.settings, record_of(scope)
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
    return Decoded(request, priority)


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
        try:
            encoded.append(prompt_ids(prompt, tokenizer, limit=limit))
        except TokenLimitError:
            raise beyond_context(model, tokens=limit, param="prompt") from None
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
