"""An engine behind slots: requests beyond its capacity wait in a queue, or are refused."""

from typing import Any, Final, Protocol

from serval.engine.placement import keys_of
from serval.engine.protocol import DeltaSink, Engine, EngineInfo, GenerateRequest
from serval.scheduling.conversations import ConversationGate, turn_of
from serval.scheduling.load import EngineLoad
from serval.scheduling.queue_time import timed_as_queue
from serval.scheduling.slots import Slots, WaitingRoom
from serval.settings import Settings
from serval.telemetry.record import RequestRecord

# Name of the only place in the working set, with one engine.
THE_PLACE: Final = "engine"
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

    def __init__(
        self,
        engine: Engine,
        slots: Slots,
        load: EngineLoad,
        *,
        gate: ConversationGate | None = None,
        share_prefixes: bool = False,
    ) -> None:
        """`gate` admits conversations whole; with `share_prefixes` those of all keys share prefixes."""
        self._engine = engine
        self._slots = slots
        self._gate = gate
        self._share_prefixes = share_prefixes
        self.slots: WaitingRoom[Any] = slots if gate is None else gate
        self.load = load

    async def generate(self, request: GenerateRequest, sink: ScheduledSink, record: RequestRecord) -> None:
        """See `Scheduler`."""
        self.load.check(request.priority)
        if self._gate is None:
            await self._run(request, sink, record)
            return
        owner = "" if self._share_prefixes else request.tenant or ""
        turn = turn_of(request, keys_of(request.input_ids, owner=owner, parts=request.parts))
        async with self._gate.admitted(turn, THE_PLACE, request, record) as admitted:
            await self._run(request, sink, record, waited_s=admitted.waited_s)

    async def _run(
        self, request: GenerateRequest, sink: ScheduledSink, record: RequestRecord, *, waited_s: float = 0.0
    ) -> None:
        slots = self._slots
        if not slots.try_acquire():
            tokens = longest_tokens(request)
            turn = slots.acquire(request.tenant, request.priority, tokens, waited_s=waited_s)
            await timed_as_queue(turn, request, record)
        sink.dispatched()
        try:
            await self._engine.generate(request, sink)
        finally:
            slots.release()

    async def is_ready(self) -> bool:
        """See `Engine.is_ready`."""
        return await self._engine.is_ready()


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
