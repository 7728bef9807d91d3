"""The engines as the console shows them."""

from msgspec import Struct

from serval.engine.fleet import Fleet
from serval.engine.place import FleetEngine
from serval.engine.protocol import ManagedEngine
from serval.errors import ApiError


class EngineRow(Struct, frozen=True):
    """An engine: requests that it last reported, and the share of its KV cache in use; None: not known."""

    name: str
    state: str
    version: str | None
    running: int | None
    waiting: int | None
    kv_use: float | None


async def engine_rows(engine: ManagedEngine) -> list[EngineRow]:
    """Return a row for each engine."""
    if isinstance(engine, Fleet):
        return [_of_fleet(each) for each in engine.engines()]
    ready = await engine.is_ready()
    try:
        reports = await engine.loads() if ready else ()
    except ApiError:
        # An engine that does not tell its load may work all the same.
        reports = ()
    return [
        EngineRow(
            name="engine",
            state="ready" if ready else "not ready",
            version=None,
            running=None,
            waiting=sum(report.waiting for report in reports) if reports else None,
            kv_use=max((report.kv_use for report in reports), default=None),
        )
    ]


def _of_fleet(engine: FleetEngine) -> EngineRow:
    loads = [place.load for place in engine.places]
    return EngineRow(
        name=engine.found.name,
        state=engine.told_state,
        version=engine.found.options.version or None,
        running=sum(load.num_running_reqs for load in loads),
        waiting=sum(load.num_waiting_reqs for load in loads),
        kv_use=max((load.token_usage for load in loads), default=None),
    )
