"""Putting an engine, or several, behind this process's slots."""

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any

from serval.engine.fleet import Fleet
from serval.engine.place import Place
from serval.engine.protocol import EngineInfo, ManagedEngine
from serval.scheduling.conversations import ConversationGate
from serval.scheduling.engine import THE_PLACE, ScheduledEngine, Scheduler, slots_for, slots_of_all
from serval.scheduling.fleet import ScheduledFleet
from serval.scheduling.load import EngineLoad
from serval.scheduling.place_slots import PlaceSlots
from serval.scheduling.seats import PlaceLimit
from serval.scheduling.slots import Slots, WaitingRoom
from serval.settings import Settings
from serval.telemetry.metrics import Metrics


def schedule_engine(
    engine: ManagedEngine, settings: Settings, info: EngineInfo, metrics: Metrics
) -> Scheduler:
    """Put `engine` behind this process's share of its slots."""
    engine.watch_breaker(metrics.engine_breaker)
    engine.watch_stops(metrics.engine_stopped)
    load = EngineLoad(
        engine.loads,
        high_queue=settings.shed_queue_length or max(8, (info.max_running_requests or 0) // 4),
        high_kv_use=settings.shed_kv_use,
        on_change=metrics.engine_saturation,
    )
    queue_limit = _queue_limit(settings)
    if isinstance(engine, Fleet):
        engine.watch_places(metrics.places)
        places = PlaceSlots(
            engine.ready_places,
            capacity=lambda place: slots_of_all(settings, place.max_running),
            sharers=round(settings.workers / settings.limits_share),
            queue_limit=queue_limit,
            timeout_s=settings.queue_timeout_s,
            meter=metrics,
        )
        gate = _gate_for(settings, places, lambda: limits_of(engine.ready_places(), settings), metrics)
        return ScheduledFleet(engine, places, load, gate=gate)
    slots = Slots(
        slots_for(settings, info), queue_limit=queue_limit, timeout_s=settings.queue_timeout_s, meter=metrics
    )
    limits = {THE_PLACE: PlaceLimit(_share_of(settings, info.kv_tokens))}
    gate = _gate_for(settings, slots, lambda: limits, metrics)
    return ScheduledEngine(engine, slots, load, gate=gate, share_prefixes=settings.share_prefix_cache)


def _gate_for(
    settings: Settings,
    slots: WaitingRoom[Any],
    limits: Callable[[], Mapping[str, PlaceLimit]],
    metrics: Metrics,
) -> ConversationGate | None:
    """Return the gate that admits conversations whole before `slots`; None if the settings ask for none."""
    if not settings.working_set:
        return None
    return ConversationGate(
        slots,
        limits,
        queue_limit=_queue_limit(settings),
        timeout_s=settings.queue_timeout_s,
        meter=metrics,
        observer=metrics.conversations,
    )


def limits_of(places: Iterable[Place], settings: Settings) -> dict[str, PlaceLimit]:
    """Return the room that this process's conversations have in each place, and the places' weights."""
    return {
        place.name: PlaceLimit(_share_of(settings, place.load.max_total_num_tokens), place.view.weight)
        for place in places
    }


def _share_of(settings: Settings, kv_tokens: int | None) -> float:
    """Return the tokens of a KV cache for this process's conversations; of an unknown one all that come."""
    return settings.working_set * kv_tokens / settings.workers if kv_tokens else inf


def _queue_limit(settings: Settings) -> int:
    return max(settings.queue_limit // settings.workers, settings.max_batch)
