"""An engine behind slots: requests beyond its capacity wait in a queue, or are refused."""

import time
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

from serval.engine.protocol import DeltaSink, Engine, EngineInfo, GenerateRequest
from serval.scheduling.load import EngineLoad
from serval.scheduling.slots import Slots, WaitingRoom
from serval.settings import Settings
from serval.telemetry.record import RequestRecord
from serval.telemetry.stopwatch import ENGINE, QUEUE

T = TypeVar("T")

# Assumed length of an answer without a limit, when computing the shares of keys.
_USUAL_ANSWER_TOKENS = 512


class ScheduledSink(DeltaSink, Protocol):
    """Consumer of a scheduled request's answer."""

    def dispatched(self) -> None:
        """Note that the request has its slot, and goes to the engine."""
        ...


class Scheduler(Protocol):
    """One engine or several behind slots, as seen by the endpoints."""

    @property
    def slots(self) -> WaitingRoom[Any]:
        """Slots, and the queue before them."""
        ...

    @property
    def load(self) -> EngineLoad:
        """Saturation, by which requests are shed."""
        ...

    async def generate(self, request: GenerateRequest, sink: ScheduledSink, record: RequestRecord) -> None:
        """See `Engine.generate`. Also raises `EngineOverloadedError` and `ShuttingDownError`."""
        ...

    async def is_ready(self) -> bool:
        """See `Engine.is_ready`."""
        ...


class ScheduledEngine:
    """An engine that receives at most as many requests at a time as it has slots."""

    def __init__(self, engine: Engine, slots: Slots, load: EngineLoad) -> None:
        self._engine = engine
        self.slots = slots
        self.load = load

    async def generate(self, request: GenerateRequest, sink: ScheduledSink, record: RequestRecord) -> None:
        """See `Scheduler`."""
        slots = self.slots
        self.load.check(request.priority)
        if not slots.try_acquire():
            await self._wait(request, record)
        sink.dispatched()
        try:
            await self._engine.generate(request, sink)
        finally:
            slots.release()

    async def _wait(self, request: GenerateRequest, record: RequestRecord) -> None:
        turn = self.slots.acquire(request.tenant, request.priority, longest_tokens(request))
        await timed_as_queue(turn, request, record)

    async def is_ready(self) -> bool:
        """See `Engine.is_ready`."""
        return await self._engine.is_ready()


async def timed_as_queue(turn: Awaitable[T], request: GenerateRequest, record: RequestRecord) -> T:
    """Await the request's turn, whose time counts as waiting in the queue."""
    # Other requests of a call may wait while its first one is with the engine.
    if request.request_id != record.engine_request_id:
        return await turn
    record.clock.enter(QUEUE, time.perf_counter())
    try:
        return await turn
    finally:
        record.clock.enter(ENGINE, time.perf_counter())


def slots_for(settings: Settings, info: EngineInfo) -> int:
    """Return this process's share of the engine's slots.

    The default is an eighth more than the engine runs at a time, so that its own queue stays short but never
    runs dry.
    """
    return max(1, slots_of_all(settings, info.max_running_requests) // settings.workers)


def slots_of_all(settings: Settings, max_running: int | None) -> int:
    """Return the slots that all processes have together, of an engine that runs `max_running` at a time."""
    slots = settings.engine_slots
    if slots is None and max_running is not None:
        slots = max_running + max(2, max_running // 8)
    # An engine that does not report a number gets as many requests as there are connections.
    return slots or settings.engine_max_connections


def longest_tokens(request: GenerateRequest) -> int:
    """Return the tokens that the request may use, for the shares of keys."""
    longest = request.sampling.get("max_new_tokens")
    return len(request.input_ids) + (longest if isinstance(longest, int) else _USUAL_ANSWER_TOKENS)
