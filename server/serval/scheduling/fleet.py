"""Several engines behind slots: a place for each request, and another one if it does not begin to answer."""

from typing import Any, Final

from serval.engine.answer import NotAnsweredError
from serval.engine.fleet import Fleet
from serval.engine.place import FleetEngine, Place
from serval.engine.placement import Choice, PlacedPrompt
from serval.engine.protocol import GenerateRequest
from serval.engine.request_body import renamed
from serval.errors import EngineUnavailableError
from serval.scheduling.conversations import Admitted, ConversationGate, turn_of
from serval.scheduling.engine import ScheduledSink, longest_tokens
from serval.scheduling.load import EngineLoad
from serval.scheduling.place_slots import PlaceSlots, Wish
from serval.scheduling.queue_time import timed_as_queue
from serval.scheduling.slots import WaitingRoom
from serval.telemetry.record import RequestRecord

# A request that ends an engine must not end them all.
MOST_SENDS: Final = 2


class ScheduledFleet:
    """A `Scheduler` of the places of a fleet."""

    def __init__(
        self, fleet: Fleet, slots: PlaceSlots, load: EngineLoad, *, gate: ConversationGate | None = None
    ) -> None:
        """`gate` admits conversations whole."""
        self._fleet = fleet
        self._slots = slots
        self._gate = gate
        self.slots: WaitingRoom[Any] = slots if gate is None else gate
        self.load = load
        fleet.on_change = slots.grant

    async def generate(self, request: GenerateRequest, sink: ScheduledSink, record: RequestRecord) -> None:
        """See `Scheduler`. A request that no engine began to answer is sent to two at most."""
        self.load.check(request.priority)
        prompt = await self._fleet.prompt_of(request)
        if self._gate is None:
            await self._run(request, prompt, sink, record)
            return
        place, choice = self._fleet.choose(prompt)
        async with self._gate.admitted(turn_of(request, prompt), place.name, request, record) as admitted:
            if admitted.seat.place_name not in {None, place.name} or not place.is_ready:
                place, choice = self._fleet.choose(prompt, prefer=admitted.seat.place_name)
            await self._run(request, prompt, sink, record, admitted=admitted, first=(place, choice))

    async def _run(
        self,
        request: GenerateRequest,
        prompt: PlacedPrompt,
        sink: ScheduledSink,
        record: RequestRecord,
        *,
        admitted: Admitted | None = None,
        first: tuple[Place, Choice] | None = None,
    ) -> None:
        """Send the request to `first`, or to a place chosen now, and elsewhere if it is not answered."""
        waited_s = 0.0 if admitted is None else admitted.waited_s
        sends = 0
        tried: list[FleetEngine] = []
        last: NotAnsweredError | None = None
        while True:
            chosen = self._choose(prompt, tried, last) if first is None else first
            first = None
            place = await self._slot(request, record, chosen, tried=tried, waited_s=waited_s)
            if admitted is not None and self._gate is not None:
                self._gate.set.moved(admitted.seat, place.name)
            record.place, record.engine_version = place.name, place.engine.found.options.version or None
            try:
                if not sends:
                    sink.dispatched()
                # A second send must not meet a connection that is about to close.
                await self._fleet.run(place, request, prompt, sink, fresh=sends > 0)
                return
            except NotAnsweredError as error:
                last = error
                if error.sent:
                    sends += 1
                    # The engine may have the request by its first name.
                    request = renamed(request)
                tried.append(place.engine)
                if sends >= MOST_SENDS:
                    raise error.error from error
            finally:
                self._slots.release(place)

    def _choose(
        self, prompt: PlacedPrompt, tried: list[FleetEngine], last: NotAnsweredError | None
    ) -> tuple[Place, Choice]:
        # An engine without room says that there is much to do: only an idle one may help.
        busy = last is not None and last.busy
        try:
            return self._fleet.choose(prompt, without=tried, only_idle=busy)
        except EngineUnavailableError:
            if last is None:
                raise
            if not last.stale:
                raise last.error from last
            # The only engine, as with one: over a new connection it may answer.
            tried.clear()
            return self._fleet.choose(prompt)

    async def _slot(
        self,
        request: GenerateRequest,
        record: RequestRecord,
        chosen: tuple[Place, Choice],
        *,
        tried: list[FleetEngine],
        waited_s: float,
    ) -> Place:
        place, choice = chosen
        if self._slots.try_acquire(place):
            return place
        wish = Wish(place, choice.moving_s, without=tuple(tried), waited_s=waited_s)
        turn = self._slots.acquire(request.tenant, request.priority, longest_tokens(request), wish)
        return await timed_as_queue(turn, request, record)

    async def is_ready(self) -> bool:
        """See `Scheduler`."""
        return await self._fleet.is_ready()
