"""Putting an engine, or several, behind this process's slots."""

from serval.engine.fleet import Fleet
from serval.engine.protocol import EngineInfo, ManagedEngine
from serval.scheduling.engine import ScheduledEngine, Scheduler, slots_for, slots_of_all
from serval.scheduling.fleet import ScheduledFleet
from serval.scheduling.load import EngineLoad
from serval.scheduling.place_slots import PlaceSlots
from serval.scheduling.slots import Slots
from serval.settings import Settings
from serval.telemetry.metrics import Metrics


def schedule_engine(
    engine: ManagedEngine, settings: Settings, info: EngineInfo, metrics: Metrics
) -> Scheduler:
    """Put `engine` behind this process's share of its slots."""
    engine.watch_breaker(metrics.engine_breaker)
    load = EngineLoad(
        engine.loads,
        high_queue=settings.shed_queue_length or max(8, (info.max_running_requests or 0) // 4),
        high_kv_use=settings.shed_kv_use,
        on_change=metrics.engine_saturation,
    )
    queue_limit = max(settings.queue_limit // settings.workers, settings.max_batch)
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
        return ScheduledFleet(engine, places, load)
    slots = Slots(
        slots_for(settings, info), queue_limit=queue_limit, timeout_s=settings.queue_timeout_s, meter=metrics
    )
    return ScheduledEngine(engine, slots, load)
