"""Several engines behind slots: a place for each request, and another one if it does not begin to answer."""

from typing import Final

from serval.engine.answer import NotAnsweredError
from serval.engine.client import renamed
from serval.engine.fleet import Fleet
from serval.engine.place import FleetEngine, Place
from serval.engine.placement import PlacedPrompt
from serval.engine.protocol import GenerateRequest
from serval.errors import EngineUnavailableError
from serval.scheduling.engine import ScheduledSink, longest_tokens, timed_as_queue
from serval.scheduling.load import EngineLoad
from serval.scheduling.place_slots import PlaceSlots, Wish
from serval.telemetry.record import RequestRecord

# A request that ends an engine must not end them all.
MOST_SENDS: Final = 2


class ScheduledFleet:
    """A `Scheduler` of the places of a fleet."""

    def __init__(self, fleet: Fleet, slots: PlaceSlots, load: EngineLoad) -> None:
        self._fleet = fleet
        self.slots = slots
        self.load = load
        fleet.on_change = slots.grant

    async def generate(self, request: GenerateRequest, sink: ScheduledSink, record: RequestRecord) -> None:
        """See `Scheduler`. A request that no engine began to answer is sent to two at most."""
        self.load.check(request.priority)
        prompt = await self._fleet.prompt_of(request)
        sends = 0
        tried: list[FleetEngine] = []
        last: NotAnsweredError | None = None
        while True:
            place = await self._slot(request, prompt, record, tried=tried, last=last)
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
                self.slots.release(place)

    async def _slot(
        self,
        request: GenerateRequest,
        prompt: PlacedPrompt,
        record: RequestRecord,
        *,
        tried: list[FleetEngine],
        last: NotAnsweredError | None,
    ) -> Place:
        # An engine without room says that there is much to do: only an idle one may help.
        busy = last is not None and last.busy
        try:
            place, choice = self._fleet.choose(prompt, without=tried, only_idle=busy)
        except EngineUnavailableError:
            if last is None:
                raise
            if not last.stale:
                raise last.error from last
            # The only engine, as with one: over a new connection it may answer.
            tried.clear()
            place, choice = self._fleet.choose(prompt)
        if self.slots.try_acquire(place):
            return place
        turn = self.slots.acquire(
            request.tenant,
            request.priority,
            longest_tokens(request),
            Wish(place, choice.moving_s, without=tuple(tried)),
        )
        return await timed_as_queue(turn, request, record)

    async def is_ready(self) -> bool:
        """See `Scheduler`."""
        return await self._fleet.is_ready()
