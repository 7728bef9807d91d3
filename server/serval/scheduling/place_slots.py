"""Slots of several places, with one fair queue before all of them.

A free slot goes to the first request in fair order that wants this place, or that has waited for its own
place longer than moving would cost it (delay scheduling, Zaharia et al., EuroSys 2010).

Other gateways use the same engines: a place has the slots that its load, as last reported, leaves free. If
several filled them at once, it has more requests than slots; each of them then gives back its part of these.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from serval.caller.priority import Priority
from serval.engine.place import FleetEngine, Place
from serval.scheduling.fair_queue import Ticket
from serval.scheduling.slots import QueueMeter, WaitingRoom


@dataclass(frozen=True)
class Wish:
    """The place that a request wants, and the seconds that going elsewhere would cost it."""

    place: Place
    moving_s: float
    # Engines that it must not go to, because they did not answer it.
    without: Collection[FleetEngine] = ()
    # Seconds that the request has waited elsewhere.
    waited_s: float = 0.0


class PlaceSlots(WaitingRoom[Place]):
    """Call `try_acquire` or `acquire` once for each request, then `release`."""

    def __init__(
        self,
        places: Callable[[], Sequence[Place]],
        *,
        capacity: Callable[[Place], int],
        sharers: int,
        queue_limit: int,
        timeout_s: float,
        meter: QueueMeter | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`places` are those that are ready, each with a `capacity` of requests of all gateways together.

        `sharers` is the number of processes that share them, as far as it is known: they learn of each other
        with the next report only. The others are those of `WaitingRoom`.
        """
        super().__init__(
            queue_limit=queue_limit, timeout_s=timeout_s, meter=meter, wanted="the engines", now=now
        )
        self._places = places
        self._capacity = capacity
        self._sharers = sharers
        self._wishes: dict[Ticket, Wish] = {}
        self._in_use = 0

    @property
    def in_use(self) -> int:
        """See `WaitingRoom`."""
        return self._in_use

    def free(self, place: Place) -> int:
        """Return how many more requests of this process may go there; negative if it has too many there."""
        # The engine may not have counted yet what had just been sent to it.
        there = max(place.load.num_running_reqs + place.load.num_waiting_reqs, place.in_flight_then)
        capacity, own, sharers = self._capacity(place), place.in_flight_then, self._sharers
        rest = capacity - there
        allowed = own * capacity // there if rest < 0 else own + -(-rest // sharers)
        # A busy gateway must not keep the place from another for ever.
        least = max(1, capacity // sharers) if sharers > 1 else 1
        return max(least, allowed) - place.in_flight

    def try_acquire(self, place: Place) -> bool:
        """Take a slot of the place if one is free and no request waits. Raises `ShuttingDownError`."""
        self._check_running()
        if self._queue or self.free(place) <= 0:
            return False
        self._take(place)
        return True

    async def acquire(self, key: str | None, priority: Priority, tokens: int, wish: Wish) -> Place:
        """Wait for this request's turn, take a slot, and return its place. Raises as `Slots.acquire` does."""
        ticket = Ticket(key, priority, max(tokens, 1), arrived=self._now() - wish.waited_s)
        self._wishes[ticket] = wish
        # A place may be free already, for requests that others in the queue do not want to go to.
        loop = asyncio.get_running_loop()
        timers = [loop.call_soon(self.grant)]
        if wish.moving_s < self._timeout_s:
            timers.append(loop.call_later(wish.moving_s, self.grant))
        try:
            return await self._wait(ticket)
        finally:
            del self._wishes[ticket]
            for timer in timers:
                timer.cancel()

    def release(self, place: Place) -> None:
        """Give a slot back, and grant what is free."""
        place.in_flight -= 1
        self._in_use -= 1
        self.grant()
        self._note_idle()

    def grant(self) -> None:
        """Grant all that is free: places or their loads have changed."""
        if not self._queue:
            return
        for place in self._places():
            while self._queue and self.free(place) > 0 and self._grant(place):
                pass

    def _grant(self, place: Place) -> bool:
        now = self._now()

        def accepts(ticket: Ticket) -> bool:
            wish = self._wishes[ticket]
            if place.engine in wish.without:
                return False
            if wish.place is place:
                return True
            # Time spent elsewhere was not spent waiting for this place.
            waited_enough = now - ticket.arrived - wish.waited_s >= wish.moving_s
            return (waited_enough or not wish.place.is_ready) and self._may_relieve(place, wish.place)

        ticket = self._queue.pop_accepted(now, accepts)
        if ticket is None:
            return False
        granted = self._granted[ticket]
        # A request that was just cancelled has not left the queue yet.
        if not granted.done():
            self._take(place)
            granted.set_result(place)
        return True

    def _may_relieve(self, place: Place, wanted: Place) -> bool:
        """Return False for a place of less weight, a canary for example, while there is another one."""
        least = wanted.view.weight
        return place.view.weight >= least or all(ready.view.weight < least for ready in self._places())

    def _take(self, place: Place) -> None:
        place.in_flight += 1
        self._in_use += 1

    def _give_back(self, grant: Place) -> None:
        self.release(grant)
