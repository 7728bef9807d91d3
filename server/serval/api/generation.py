"""Running the engine requests of one call and adding up their usage, for chat and plain completions."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from serval.api.context import ServedModel
from serval.api.tasks import all_of
from serval.auth.running import RunningRequest
from serval.engine.protocol import GenerateRequest, GenerationDelta
from serval.errors import (
    ApiError,
    ContextLengthError,
    EngineFailureError,
    EngineOverloadedError,
    EngineStreamBrokenError,
    EngineUnavailableError,
    InvalidRequestError,
)
from serval.limits.gate import Reservation
from serval.scheduling.engine import Scheduler
from serval.telemetry.record import RequestRecord
from serval.telemetry.stopwatch import ENGINE, GATEWAY
from serval.wire.chat_response import Usage

# Tokens of the prompt that the engine found in its prefix cache, and all of them.
CACHE_HEADER: Final = "x-serval-cache"
# Called with the index of a request and its next delta. False applies backpressure.
OnDelta = Callable[[int, GenerationDelta], bool]

# Errors that say that the engine did not work on a request. After any other end it may have.
_NOT_WORKED_ON: Final = (
    InvalidRequestError,
    EngineFailureError,
    EngineOverloadedError,
    EngineUnavailableError,
)


async def always_ready() -> None:
    """No-op `ready` for consumers that never apply backpressure."""


class Generation:
    """Engine requests of one call: `choices` of them for each prompt, prompt by prompt."""

    def __init__(
        self,
        engine: Scheduler,
        requests: Sequence[GenerateRequest],
        *,
        choices: int,
        reservation: Reservation,
        running: RunningRequest,
    ) -> None:
        """`reservation` is settled when the engine has finished, before the client learns of it.

        `running` is entered meanwhile.
        """
        self.requests = requests
        self._reservation = reservation
        self._running = running
        self._engine = engine
        self._choices = choices
        # Latest delta of each request.
        self._last: list[GenerationDelta | None] = [None for _ in requests]
        # Requests that were sent to the engine, and not refused by it.
        self._sent: set[int] = set()

    async def run(
        self, record: RequestRecord, on_delta: OnDelta, ready: Callable[[], Awaitable[None]] = always_ready
    ) -> None:
        """Run all requests. `ready` is awaited whenever `on_delta` returned False.

        Usage is recorded and settled however the call ends. What was sent to the engine has used at least its
        prompt, unless the engine answered with an error instead of a first token.

        Raises an `ApiError` unless every request ended with a finish reason.
        """
        record.engine_request_id = self.requests[0].request_id
        requests = self.requests
        if record.traceparent is not None:
            requests = [replace(request, traceparent=record.traceparent) for request in requests]
        record.clock.enter(ENGINE, time.perf_counter())
        try:
            with self._running:
                await all_of(
                    [
                        self._run_one(request, _RequestSink(index, self, record, on_delta, ready), record)
                        for index, request in enumerate(requests)
                    ]
                )
            for delta in self._last:
                if delta is None or delta.finish is None:
                    raise EngineStreamBrokenError("The engine's answer ended before it was complete.")
        except ApiError as error:
            if not self._sent:
                self._reservation.end_unused(error)
            raise
        finally:
            record.clock.enter(GATEWAY, time.perf_counter())
            usage = self.usage()
            record.prompt_tokens = usage.prompt_tokens
            record.completion_tokens = usage.completion_tokens
            record.cached_tokens = usage.cached_tokens
            record.cost = self._reservation.cost(usage)
            self._reservation.settle(
                requests=max(1, len(self._sent)),
                tokens=usage.prompt_tokens + usage.completion_tokens,
                cost=record.cost,
            )

    async def _run_one(self, request: GenerateRequest, sink: "_RequestSink", record: RequestRecord) -> None:
        try:
            await self._engine.generate(request, sink, record)
        except _NOT_WORKED_ON:
            if self._last[sink.index] is None:
                self._sent.discard(sink.index)
            raise

    def note_sent(self, index: int) -> None:
        """Note that the request at `index` goes to the engine."""
        self._sent.add(index)

    def note_delta(self, index: int, delta: GenerationDelta) -> None:
        """Note the latest delta of the request at `index`."""
        self._last[index] = delta

    def headers(self) -> Mapping[str, str]:
        """Return headers of the answer: those of the key's limits, and the use of the prefix cache.

        The engine reports the latter with its first delta.
        """
        if self._last[0] is None:
            return self._reservation.headers
        usage = self.usage()
        found = f"{usage.cached_tokens}/{usage.prompt_tokens}"
        return {**self._reservation.headers, CACHE_HEADER: found}

    def usage(self) -> Usage:
        """Return the usage so far. A prompt counts once for all its choices, from when it is sent."""
        if len(self._last) == 1 and self._last[0] is not None:
            only = self._last[0]  # nearly always
            return Usage(
                only.prompt_tokens, only.completion_tokens, only.cached_tokens, only.reasoning_tokens
            )
        deltas = [delta for delta in self._last if delta is not None]
        prompt = cached = 0
        for first in range(0, len(self.requests), self._choices):
            choices = range(first, first + self._choices)
            known = next((delta for delta in self._last[first : choices.stop] if delta is not None), None)
            if known is not None:
                prompt += known.prompt_tokens
                cached += known.cached_tokens
            elif not self._sent.isdisjoint(choices):
                prompt += len(self.requests[first].input_ids)
        completion = sum(delta.completion_tokens for delta in deltas)
        reasoning = sum(delta.reasoning_tokens for delta in deltas)
        return Usage(prompt, completion, cached, reasoning)


class _RequestSink:
    """`ScheduledSink` of one request."""

    def __init__(
        self,
        index: int,
        generation: Generation,
        record: RequestRecord,
        on_delta: OnDelta,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self.index = index
        self._generation = generation
        self._record = record
        self._clock = record.clock
        self._on_delta = on_delta
        self._ready = ready

    def dispatched(self) -> None:
        """See `ScheduledSink`."""
        self._generation.note_sent(self.index)

    def send(self, delta: GenerationDelta) -> bool:
        """See `DeltaSink`."""
        clock, now = self._clock, time.perf_counter()
        clock.enter(GATEWAY, now)
        self._record.add_tokens(now)
        self._generation.note_delta(self.index, delta)
        if self._on_delta(self.index, delta):
            clock.enter(ENGINE, time.perf_counter())
            return True
        return False

    async def ready(self) -> None:
        """See `DeltaSink`."""
        await self._ready()
        self._clock.enter(ENGINE, time.perf_counter())


def check_context(prompt_tokens: int, *, asked: int | None, model: ServedModel, param: str) -> None:
    """Raise `ContextLengthError` if the prompt, or prompt and requested completion, are too long.

    `asked` is the completion's limit in tokens, None if the client set none; `param` holds the prompt.
    """
    wanted = prompt_tokens + (asked or 1)
    if prompt_tokens <= model.max_prompt_tokens and wanted <= model.context_length:
        return
    longest = min(model.max_prompt_tokens, model.context_length - 1)
    limit = f"This model's maximum context length is {model.context_length} tokens"
    if model.max_prompt_tokens < model.context_length - 1:
        limit += f", of which the prompt may take {model.max_prompt_tokens}"
    completion = "" if asked is None else f" and {asked} for the completion, {wanted} together"
    subject = "messages and tools are" if param == "messages" else "prompt is"
    raise ContextLengthError(
        f"{limit}. The {subject} {prompt_tokens} tokens{completion}."
        f" Shorten the {param}{'' if asked is None else ' or ask for fewer tokens'}.",
        param=param,
        prompt_tokens=prompt_tokens if prompt_tokens > longest else None,
        limit=longest,
    )
