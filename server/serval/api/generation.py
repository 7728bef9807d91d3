"""What chat and plain completions do alike: run the engine's requests of one call and add up their usage."""

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
from serval.telemetry.stopwatch import Phase
from serval.wire.chat_response import Usage

# Takes the delta of a request, named by its place; whether there may be more at once.
Receive = Callable[[int, GenerationDelta], bool]


async def _at_once() -> None:
    """Whoever never says that there must be no more has nothing to wait for."""


class Generation:
    """The engine requests of one call: `choices` of them for each prompt, prompt by prompt."""

    def __init__(
        self,
        engine: ScheduledEngine,
        requests: Sequence[GenerateRequest],
        *,
        choices: int,
        reservation: Reservation,
    ) -> None:
        """`reservation` is settled when the engine is done, before the client is told so."""
        self.requests = requests
        self._reservation = reservation
        self._engine = engine
        self._choices = choices
        # The last delta of each request so far.
        self._last: list[GenerationDelta | None] = [None for _ in requests]

    async def run(
        self, record: RequestRecord, receive: Receive, ready: Callable[[], Awaitable[None]] = _at_once
    ) -> None:
        """Have all deltas received; `ready` is awaited whenever `receive` returned False. Notes the usage in
        `record` and settles it also if it is cancelled; a request that the engine refused is not counted.

        Raises an `ApiError`; ends without one only if every request has its finish reason.
        """
        record.engine_request_id = self.requests[0].request_id
        requests = self.requests
        if record.traceparent is not None:
            requests = [replace(request, traceparent=record.traceparent) for request in requests]
        record.clock.enter(Phase.ENGINE, time.perf_counter())
        try:
            await all_of(
                [
                    self._engine.generate(
                        request, _RequestSink(place, self._last, record, receive, ready), record
                    )
                    for place, request in enumerate(requests)
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
            record.clock.enter(Phase.GATEWAY, time.perf_counter())
            usage = self.usage()
            record.prompt_tokens = usage.prompt_tokens
            record.completion_tokens = usage.completion_tokens
            record.cached_tokens = usage.cached_tokens
            self._reservation.settle(usage.prompt_tokens + usage.completion_tokens)

    def usage(self) -> Usage:
        """Usage so far. The choices of a prompt share it, so it counts once."""
        prompt = completion = cached = reasoning = 0
        for place, delta in enumerate(self._last):
            if delta is None:
                continue
            completion += delta.completion_tokens
            reasoning += delta.reasoning_tokens
            if place % self._choices == 0:
                prompt += delta.prompt_tokens
                cached += delta.cached_tokens
        return Usage(prompt, completion, cached, reasoning)


class _RequestSink:
    """Takes what the engine says to the request at `place`."""

    def __init__(
        self,
        place: int,
        last: list[GenerationDelta | None],
        record: RequestRecord,
        receive: Receive,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._place = place
        self._last = last
        self._record = record
        self._receive = receive
        self._ready = ready

    def send(self, delta: GenerationDelta) -> bool:
        """See `DeltaSink`."""
        record, now = self._record, time.perf_counter()
        record.clock.enter(Phase.GATEWAY, now)
        record.add_tokens(now)
        self._last[self._place] = delta
        if self._receive(self._place, delta):
            record.clock.enter(Phase.ENGINE, time.perf_counter())
            return True
        return False

    async def ready(self) -> None:
        """See `DeltaSink`."""
        await self._ready()
        self._record.clock.enter(Phase.ENGINE, time.perf_counter())


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
    what = "messages and tools are" if param == "messages" else "prompt is"
    raise ContextLengthError(
        f"{limit}. The {what} {prompt_tokens} tokens{completion}."
        f" Shorten the {param}{'' if asked is None else ' or ask for fewer tokens'}.",
        param=param,
    )
