"""Running the engine requests of one call and adding up their usage, for chat and plain completions."""

import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from serval.api.context import ServedModel
from serval.api.tasks import all_of
from serval.engine.protocol import GenerateRequest, GenerationDelta
from serval.errors import ApiError, ContextLengthError, EngineStreamBrokenError
from serval.limits.gate import Reservation
from serval.scheduling.engine import ScheduledEngine
from serval.telemetry.record import RequestRecord
from serval.telemetry.stopwatch import ENGINE, GATEWAY
from serval.wire.chat_response import Usage

# Called with the index of a request and its next delta. False applies backpressure.
OnDelta = Callable[[int, GenerationDelta], bool]


async def _always_ready() -> None:
    """No-op `ready` for consumers that never apply backpressure."""


class Generation:
    """Engine requests of one call: `choices` of them for each prompt, prompt by prompt."""

    def __init__(
        self,
        engine: ScheduledEngine,
        requests: Sequence[GenerateRequest],
        *,
        choices: int,
        reservation: Reservation,
    ) -> None:
        """`reservation` is settled when the engine has finished, before the client learns of it."""
        self.requests = requests
        self._reservation = reservation
        self._engine = engine
        self._choices = choices
        # Latest delta of each request.
        self._last: list[GenerationDelta | None] = [None for _ in requests]

    async def run(
        self, record: RequestRecord, on_delta: OnDelta, ready: Callable[[], Awaitable[None]] = _always_ready
    ) -> None:
        """Run all requests. `ready` is awaited whenever `on_delta` returned False.

        Usage is recorded and settled even on cancellation; a call that the engine refused is not counted.

        Raises an `ApiError` unless every request ended with a finish reason.
        """
        record.engine_request_id = self.requests[0].request_id
        requests = self.requests
        if record.traceparent is not None:
            requests = [replace(request, traceparent=record.traceparent) for request in requests]
        record.clock.enter(ENGINE, time.perf_counter())
        try:
            await all_of(
                [
                    self._engine.generate(
                        request, _RequestSink(index, self._last, record, on_delta, ready), record
                    )
                    for index, request in enumerate(requests)
                ]
            )
            for delta in self._last:
                if delta is None or delta.finish is None:
                    raise EngineStreamBrokenError("The engine's answer ended before it was complete.")
        except ApiError:
            if all(delta is None for delta in self._last):
                self._reservation.close()
            raise
        finally:
            record.clock.enter(GATEWAY, time.perf_counter())
            usage = self.usage()
            record.prompt_tokens = usage.prompt_tokens
            record.completion_tokens = usage.completion_tokens
            record.cached_tokens = usage.cached_tokens
            self._reservation.settle(usage.prompt_tokens + usage.completion_tokens)

    def usage(self) -> Usage:
        """Return the usage so far. A prompt counts once for all its choices."""
        prompt = completion = cached = reasoning = 0
        for index, delta in enumerate(self._last):
            if delta is None:
                continue
            completion += delta.completion_tokens
            reasoning += delta.reasoning_tokens
            if index % self._choices == 0:
                prompt += delta.prompt_tokens
                cached += delta.cached_tokens
        return Usage(prompt, completion, cached, reasoning)


class _RequestSink:
    """`DeltaSink` of one request."""

    def __init__(
        self,
        index: int,
        last: list[GenerationDelta | None],
        record: RequestRecord,
        on_delta: OnDelta,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._index = index
        self._last = last
        self._record = record
        self._clock = record.clock
        self._on_delta = on_delta
        self._ready = ready

    def send(self, delta: GenerationDelta) -> bool:
        """See `DeltaSink`."""
        clock, now = self._clock, time.perf_counter()
        clock.enter(GATEWAY, now)
        self._record.add_tokens(now)
        self._last[self._index] = delta
        if self._on_delta(self._index, delta):
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
    limit = f"This model's maximum context length is {model.context_length} tokens"
    if model.max_prompt_tokens < model.context_length - 1:
        limit += f", of which the prompt may take {model.max_prompt_tokens}"
    completion = "" if asked is None else f" and {asked} for the completion, {wanted} together"
    subject = "messages and tools are" if param == "messages" else "prompt is"
    raise ContextLengthError(
        f"{limit}. The {subject} {prompt_tokens} tokens{completion}."
        f" Shorten the {param}{'' if asked is None else ' or ask for fewer tokens'}.",
        param=param,
    )
