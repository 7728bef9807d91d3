"""Engines of a fleet, and the places in them: one for each data-parallel rank."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from serval.engine.discovery import FoundEngine
from serval.engine.member import Member
from serval.engine.model_check import ModelIdentity
from serval.engine.placement import PlaceView, PrefixIndex, Reason
from serval.engine.protocol import EngineInfo, RankLoad
from serval.engine.readiness import StopReason
from serval.engine.weights import NO_OVERRIDE, Override, Weight, relative_weights

logger = logging.getLogger(__name__)

# unknown: not reached; loading: it answers but is not ready; draining: it was ready, its requests may end;
# failing: its circuit breaker is open; mismatch: it serves another model.
State = Literal["unknown", "loading", "ready", "draining", "failing", "mismatch"]
STATES: Final[tuple[State, ...]] = ("unknown", "loading", "ready", "draining", "failing", "mismatch")
Outcome = Literal["finished", "failed", "unanswered", "cancelled"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("finished", "failed", "unanswered", "cancelled")

# Size of a place's KV cache in tokens, if the engine does not report it.
_USUAL_KV_TOKENS: Final = 500_000
# Weight of the newest measurement of the speed, and the tokens that make one.
_NEWEST: Final = 0.3
_MEASURED_TOKENS: Final = 1024


@dataclass(eq=False)
class FleetEngine:
    """One engine of the fleet, or a pair that works as one, by its URL."""

    found: FoundEngine
    client: Member
    state: State = "unknown"
    # It is no longer named by discovery.
    leaving: bool = False
    # Orders of an administrator, and the weight in force beside the 1 of an ordinary engine.
    override: Override = NO_OVERRIDE
    relative_weight: float = 1.0
    # Known once it has been ready, until it is not.
    identity: ModelIdentity | None = None
    info: EngineInfo | None = None
    places: list["Place"] = field(default_factory=list)
    # Requests of this process that are with it.
    running: int = 0
    # Set to look at it at once.
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_ready(self) -> bool:
        """True if new requests may go there."""
        return self.told_state == "ready" and not self.leaving

    @property
    def told_state(self) -> State:
        """The state, in which an administrator's drain counts too."""
        return "draining" if self.state == "ready" and self.override.drained else self.state

    @property
    def weight(self) -> Weight:
        """The weight that an administrator or else the list of engines gives it."""
        return self.override.weight or self.found.options.weight


@dataclass(eq=False)
class Place:
    """A rank of an engine; `rank` is None if the engine has one only."""

    name: str
    engine: FleetEngine
    rank: int | None
    view: PlaceView
    # Requests that this process has there: now, and when the load was last reported.
    in_flight: int = 0
    in_flight_then: int = 0
    load: RankLoad = field(default_factory=RankLoad)

    @property
    def is_ready(self) -> bool:
        """True if new requests may go there."""
        return self.engine.is_ready and self in self.engine.places

    @property
    def max_running(self) -> int | None:
        """Requests it runs at once; None if the engine does not report that."""
        info = self.engine.info
        if info is None or info.max_running_requests is None:
            return None
        return max(1, info.max_running_requests // len(self.engine.places))

    def heard(self, load: RankLoad) -> None:
        """Take over a report of its load."""
        computed = load.total_prefill_uncached_tokens - self.load.total_prefill_uncached_tokens
        busy_s = (load.total_prefill_busy_us - self.load.total_prefill_busy_us) / 1e6
        if computed >= _MEASURED_TOKENS and busy_s > 0:
            self.view.prefill_per_s += _NEWEST * (computed / busy_s - self.view.prefill_per_s)
        self.view.polled_waiting = load.num_waiting_uncached_tokens
        self.view.kv_use = load.token_usage
        self.in_flight_then = self.in_flight
        self.load = load


def places_of(engine: FleetEngine, loads: list[RankLoad]) -> list[Place]:
    """Return the places of an engine that has just become ready; nothing is known to be in their caches."""
    several = len(loads) > 1
    places = []
    for load in loads or [RankLoad()]:
        suffix = f"#{load.dp_rank}" if several else ""
        index = PrefixIndex(load.max_total_num_tokens or _USUAL_KV_TOKENS)
        place = Place(
            name=f"{engine.found.name}{suffix}",
            engine=engine,
            rank=load.dp_rank if several else None,
            # Homes go by the URL: names of addresses found by DNS may differ between processes.
            view=PlaceView(f"{engine.found.url}{suffix}", index, weight=engine.relative_weight),
        )
        place.heard(load)
        places.append(place)
    return places


def weigh(engines: Collection[FleetEngine], overrides: Mapping[str, Override]) -> list[FleetEngine]:
    """Put overrides, by URL, and weights in force; return the engines for which something has changed.

    Shares of all conversations are those among the engines that are named, have been ready and are not
    drained, so that they do not change while one of them is away.
    """
    before = {id(engine): (engine.override, engine.relative_weight) for engine in engines}
    for engine in engines:
        ordered = overrides.get(engine.found.url, NO_OVERRIDE)
        if engine.override != ordered:
            engine.override = ordered
            fields = {"weight": str(engine.weight), "drained": ordered.drained}
            logger.info("engine %s has new orders", engine.found.name, extra={"fields": fields})
    named = [engine for engine in engines if not (engine.leaving or engine.override.drained)]
    weights = relative_weights([(engine.weight, len(engine.places)) for engine in named])
    for engine, weight in zip(named, weights, strict=True):
        engine.relative_weight = weight
        for place in engine.places:
            place.view.weight = weight
    return [engine for engine in engines if (engine.override, engine.relative_weight) != before[id(engine)]]


class PlaceObserver(Protocol):
    """Observer of the places, by their names, and of choices between them."""

    def place_state(self, place: str, state: State | None) -> None:
        """Note the state of a place; None: it is gone."""
        ...

    def place_stopped(self, place: str, reason: StopReason) -> None:
        """Note that a place that was ready no longer is."""
        ...

    def place_described(self, place: str, *, version: str, weight: float) -> None:
        """Note the version of the place's engine, "" if it has none, and its weight."""
        ...

    def place_chosen(self, reason: Reason) -> None:
        """Note why a request goes where it goes."""
        ...

    def place_request_started(self, place: str) -> None:
        """Note that a request was sent there."""
        ...

    def place_request_ended(self, place: str, outcome: Outcome) -> None:
        """Note that a request there has ended."""
        ...

    def place_first_token(self, place: str, seconds: float) -> None:
        """Note how long the place took to begin an answer."""
        ...

    def place_prompt(self, place: str, *, cached: int, computed: int) -> None:
        """Note how many tokens of a prompt the place had in its cache."""
        ...

    def place_waiting(self, place: str, seconds: float) -> None:
        """Note the seconds of prefill that wait at a ready place."""
        ...
