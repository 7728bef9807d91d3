"""`POST /v1/chat/completions`."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from serval.api.choice import ChoiceAssembler, ChoiceStream, count_tool_calls
from serval.api.context import ApiContext, ServedModel
from serval.api.event_stream import EventStream
from serval.api.fan_in import fan_in
from serval.api.http import read_json_body, record_of, send_json, while_connected
from serval.api.models import check_model
from serval.api.sampling import sampling_params
from serval.engine.protocol import GenerateRequest, GenerationDelta
from serval.errors import ContextLengthError, EngineStreamBrokenError, InvalidRequestError
from serval.telemetry.record import RequestRecord
from serval.tools.answer_grammar import answer_grammar
from serval.tools.schema_error import SchemaError
from serval.wire.chat_request import ChatRequest, decode_chat_request
from serval.wire.chat_response import DONE, ChunkEncoder, Usage, completion_body


@dataclass(frozen=True)
class _Prompt:
    """What the model is shown and held to."""

    input_ids: list[int]
    tools: Sequence[Mapping[str, Any]]
    grammar: str | None


@dataclass(frozen=True)
class _Job:
    """A request that has been checked, rendered and turned into engine requests, one a choice."""

    request: ChatRequest
    requests: Sequence[GenerateRequest]
    assemblers: Sequence[ChoiceAssembler]
    created: int
    # The last delta of each choice so far.
    last: list[GenerationDelta | None]

    @property
    def id(self) -> str:
        return self.requests[0].request_id


class ChatCompletions:
    """The endpoint. A request walks through `__call__` once, top to bottom."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises an `ApiError` if nothing was sent yet, or `ClientGoneError`."""
        context, record = self._context, record_of(scope)
        body = await read_json_body(scope, receive, max_bytes=context.settings.max_body_bytes)
        request = decode_chat_request(body, max_choices=context.settings.max_choices)
        check_model(request.model, context.model)
        record.model = context.model.name
        record.stream = bool(request.stream)
        prompt = await self._prompt(request, size=len(body))
        check_context(request, len(prompt.input_ids), context.model)
        job = self._job(request, prompt)
        if request.stream:
            stream = EventStream(
                send,
                record=record,
                first_byte_s=context.settings.first_byte_s,
                ping_interval_s=context.settings.ping_interval_s,
            )
            await stream.run(self._events(job, record), receive)
        else:
            await send_json(send, await while_connected(receive, self._whole(job, record)))

    async def _prompt(self, request: ChatRequest, *, size: int) -> _Prompt:
        context = self._context
        tools = declared_tools(request)

        def prompt() -> _Prompt:
            rendered = context.chat.render(msgspec.to_builtins(request.messages), tools=tools)
            return _Prompt(rendered.input_ids, tools, grammar_of(request, tools))

        if size <= context.settings.inline_render_bytes:
            return prompt()
        return await asyncio.get_running_loop().run_in_executor(context.render_executor, prompt)

    def _job(self, request: ChatRequest, prompt: _Prompt) -> _Job:
        choices = range(request.n or 1)
        return _Job(
            request=request,
            requests=[
                GenerateRequest(
                    request_id=f"chatcmpl-{secrets.token_hex(16)}",
                    input_ids=prompt.input_ids,
                    sampling=sampling_params(
                        request,
                        defaults=self._context.chat.sampling_defaults,
                        choice=choice,
                        keep_special_tokens=bool(prompt.tools) or prompt.grammar is not None,
                        grammar=prompt.grammar,
                    ),
                    top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
                )
                for choice in choices
            ],
            assemblers=[
                ChoiceAssembler(
                    choice,
                    prompt.tools,
                    parallel_tool_calls=request.parallel_tool_calls is not False,
                    json_text=request.response_format is not None and request.response_format.type != "text",
                    logprobs=bool(request.logprobs),
                )
                for choice in choices
            ],
            created=int(time.time()),
            last=[None for _ in choices],
        )

    async def _deltas(
        self, job: _Job, record: RequestRecord
    ) -> AsyncGenerator[tuple[ChoiceAssembler, GenerationDelta], None]:
        """Deltas of all choices with their assembler. Settles the record also if it is closed early."""
        engine = self._context.engine
        try:
            async with aclosing(fan_in([engine.generate(request) for request in job.requests])) as deltas:
                async for choice, delta in deltas:
                    record.saw_token()
                    job.last[choice] = delta
                    yield job.assemblers[choice], delta
            if any(assembler.finish_reason is None for assembler in job.assemblers):
                raise EngineStreamBrokenError("The engine's answer ended before it was complete.")
        finally:
            settle(job.last, job.assemblers, record)

    async def _whole(self, job: _Job, record: RequestRecord) -> bytes:
        async with aclosing(self._deltas(job, record)) as deltas:
            async for assembler, delta in deltas:
                assembler.feed(delta)
        return completion_body(
            job.id,
            created=job.created,
            model=self._context.model.name,
            choices=[assembler.answer() for assembler in job.assemblers],
            usage=usage_of(job.last),
        )

    async def _events(self, job: _Job, record: RequestRecord) -> AsyncGenerator[bytes, None]:
        options = job.request.stream_options
        include_usage = options is not None and bool(options.include_usage)
        encoder = ChunkEncoder(
            job.id, created=job.created, model=self._context.model.name, include_usage=include_usage
        )
        streams = [
            ChoiceStream(assembler, encoder, logprobs=bool(job.request.logprobs))
            for assembler in job.assemblers
        ]
        async with aclosing(self._deltas(job, record)) as deltas:
            async for assembler, delta in deltas:
                chunks = streams[assembler.index].feed(delta)
                if chunks:
                    yield chunks
        if include_usage:
            yield encoder.usage(usage_of(job.last))
        yield DONE


def declared_tools(request: ChatRequest) -> list[dict[str, Any]]:
    """The tools the model is told of: none if the choice is 'none'."""
    if not request.tools or request.tool_choice == "none":
        return []
    tools: list[dict[str, Any]] = msgspec.to_builtins(request.tools)
    return tools


def grammar_of(request: ChatRequest, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """What holds the model to the calls or the JSON that were asked for, as JSON text; None if it is free.

    Raises `InvalidRequestError` for a schema that cannot be enforced as asked; the message names the place.
    """
    try:
        return answer_grammar(
            tools,
            tool_choice=msgspec.to_builtins(request.tool_choice or "auto"),
            parallel_tool_calls=request.parallel_tool_calls is not False,
            response_format=msgspec.to_builtins(request.response_format),
        )
    except SchemaError as error:
        param = "response_format" if error.path.startswith("response_format") else "tools"
        raise InvalidRequestError(f"Invalid schema in '{param}': {error}", param=param) from error


def check_context(request: ChatRequest, prompt_tokens: int, model: ServedModel) -> None:
    """Raise `ContextLengthError` if the prompt, or prompt and requested completion, are too long."""
    asked = request.max_completion_tokens or request.max_tokens
    wanted = prompt_tokens + (asked or 1)
    if prompt_tokens <= model.max_prompt_tokens and wanted <= model.context_length:
        return
    limit = f"This model's maximum context length is {model.context_length} tokens"
    if model.max_prompt_tokens < model.context_length - 1:
        limit += f", of which the prompt may take {model.max_prompt_tokens}"
    completion = "" if asked is None else f" and {asked} for the completion, {wanted} together"
    raise ContextLengthError(
        f"{limit}. The messages and tools are {prompt_tokens} tokens{completion}."
        f" Shorten the messages{'' if asked is None else ' or ask for fewer tokens'}.",
        param="messages",
    )


def usage_of(last: Sequence[GenerationDelta | None]) -> Usage:
    """Usage over all choices, from the last delta of each; the prompt they share counts once."""
    deltas = [delta for delta in last if delta is not None]
    if not deltas:
        return Usage()
    return Usage(
        prompt_tokens=deltas[0].prompt_tokens,
        completion_tokens=sum(delta.completion_tokens for delta in deltas),
        cached_tokens=deltas[0].cached_tokens,
        reasoning_tokens=sum(delta.reasoning_tokens for delta in deltas),
    )


def settle(
    last: Sequence[GenerationDelta | None], assemblers: Sequence[ChoiceAssembler], record: RequestRecord
) -> None:
    """Note in the record what the request has come to."""
    usage = usage_of(last)
    record.prompt_tokens = usage.prompt_tokens
    record.completion_tokens = usage.completion_tokens
    record.cached_tokens = usage.cached_tokens
    for assembler in assemblers:
        if assembler.finish_reason is not None:
            record.finish_reason = assembler.finish_reason
            count_tool_calls(assembler.answer(), record)
