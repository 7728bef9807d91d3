"""An engine behind slots: requests beyond its capacity wait in a queue, or are refused."""

import time
from typing import Protocol

from serval.engine.protocol import DeltaSink, Engine, EngineInfo, GenerateRequest, ManagedEngine
from serval.scheduling.load import EngineLoad
from serval.scheduling.slots import EngineSlots
from serval.settings import Settings
from serval.telemetry.metrics import Metrics
from serval.telemetry.record import RequestRecord
from serval.telemetry.stopwatch import ENGINE, QUEUE

# Assumed length of an answer without a limit, when computing the shares of keys.
_USUAL_ANSWER_TOKENS = 512


class ScheduledSink(DeltaSink, Protocol):
    """Consumer of a scheduled request's answer."""

    def dispatched(self) -> None:
        """Note that the request has its slot, and goes to the engine."""
        ...


class ScheduledEngine:
    """An engine that receives at most as many requests at a time as it has slots."""

    def __init__(self, engine: Engine, slots: EngineSlots, load: EngineLoad) -> None:
        self._engine = engine
        self.slots = slots
        self.load = load

    async def generate(self, request: GenerateRequest, sink: ScheduledSink, record: RequestRecord) -> None:
        """See `Engine.generate`. Also raises `EngineOverloadedError` and `ShuttingDownError`."""
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
        # Other requests of a call may wait while its first one is with the engine.
        if request.request_id != record.engine_request_id:
            await self.slots.acquire(request.tenant, request.priority, _tokens(request))
            return
        record.clock.enter(QUEUE, time.perf_counter())
        try:
            await self.slots.acquire(request.tenant, request.priority, _tokens(request))
        finally:
            record.clock.enter(ENGINE, time.perf_counter())

    async def is_ready(self) -> bool:
        """See `Engine.is_ready`."""
        return await self._engine.is_ready()


def schedule_engine(
    engine: ManagedEngine, settings: Settings, info: EngineInfo, metrics: Metrics
) -> ScheduledEngine:
    """Put `engine` behind this process's share of its slots."""
    engine.watch_breaker(metrics.engine_breaker)
    slots = EngineSlots(
        slots_for(settings, info),
        queue_limit=max(settings.queue_limit // settings.workers, settings.max_batch),
        timeout_s=settings.queue_timeout_s,
        meter=metrics,
    )
    load = EngineLoad(
        engine.load,
        high_queue=settings.shed_queue_length or max(8, (info.max_running_requests or 0) // 4),
        high_kv_use=settings.shed_kv_use,
        on_change=metrics.engine_saturation,
    )
    return ScheduledEngine(engine, slots, load)


def slots_for(settings: Settings, info: EngineInfo) -> int:
    """Return this process's share of the engine's slots.

    The default is an eighth more than the engine runs at a time, so that its own queue stays short but never
    runs dry.
    """
    slots = settings.engine_slots
    if slots is None and info.max_running_requests is not None:
        slots = info.max_running_requests + max(2, info.max_running_requests // 8)
    # An engine that does not report a number gets as many requests as there are connections.
    return max(1, (slots or settings.engine_max_connections) // settings.workers)


def _tokens(request: GenerateRequest) -> int:
    longest = request.sampling.get("max_new_tokens")
    return len(request.input_ids) + (longest if isinstance(longest, int) else _USUAL_ANSWER_TOKENS)
