"""Queue of requests for the engine, fair to keys and ordered by class.

A more urgent class goes first, but every fourth turn goes to the oldest request that has waited too long.
Within a class keys share by tokens (start-time fair queueing): a request's start is the end of its key's
previous request, counted in tokens, and the earliest start goes next. So a key with one request does not wait
behind another key's hundred.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from serval.caller.priority import PRIORITIES, Priority

# Seconds of waiting after which a request takes part in every fourth turn.
AGED_S: Final[Mapping[Priority, float]] = {"interactive": 5.0, "default": 10.0, "bulk": 30.0}
AGED_TURN: Final = 4
# Tickets that may be passed over because they wait for something else.
MOST_LOOKED_AT: Final = 16
# Stale entries allowed in the heap before it is rebuilt.
_SLACK: Final = 64


@dataclass(eq=False)
class Ticket:
    """A waiting request. `tokens` is its highest possible cost: prompt and longest answer."""

    key: str | None
    priority: Priority
    tokens: int
    arrived: float
    start: float = 0.0


class QueueFullError(Exception):
    """The queue is full, and no other key has more requests in it."""


@dataclass
class _Lane:
    """Queue of one class."""

    # In order of arrival.
    waiting: dict[Ticket, None] = field(default_factory=dict)
    # By start. It may hold tickets that have left.
    heap: list[tuple[float, int, Ticket]] = field(default_factory=list)
    # Start of each key's next request, if that is later than `now`.
    ends: dict[str | None, float] = field(default_factory=dict)
    now: float = 0.0

    def add(self, ticket: Ticket, number: int) -> None:
        ticket.start = max(self.now, self.ends.get(ticket.key, 0.0))
        self.ends[ticket.key] = ticket.start + ticket.tokens
        self.waiting[ticket] = None
        heapq.heappush(self.heap, (ticket.start, number, ticket))

    def take_next(self) -> Ticket:
        while True:
            start, _, ticket = heapq.heappop(self.heap)
            if ticket in self.waiting:
                self.now = start
                self.leave(ticket)
                return ticket

    def take_first(self, accepts: Callable[[Ticket], bool], most: int) -> tuple[Ticket | None, int]:
        """Take the first of at most `most` tickets that is accepted; also return how many were looked at."""
        looked: list[tuple[float, int, Ticket]] = []
        taken = None
        while self.heap and len(looked) < most and taken is None:
            entry = heapq.heappop(self.heap)
            if entry[2] in self.waiting:
                looked.append(entry)
                if accepts(entry[2]):
                    taken = entry[2]
        for entry in looked:
            if entry[2] is not taken:
                heapq.heappush(self.heap, entry)
        if taken is not None:
            # Later than the start of those that were passed over, which keep their place before it.
            self.now = max(self.now, taken.start)
            self.leave(taken)
        return taken, len(looked)

    def leave(self, ticket: Ticket) -> None:
        del self.waiting[ticket]
        if not self.waiting:
            self.heap.clear()
            self.ends.clear()
            self.now = 0.0
        elif max(len(self.heap), len(self.ends)) > 2 * len(self.waiting) + _SLACK:
            self.heap = [entry for entry in self.heap if entry[2] in self.waiting]
            heapq.heapify(self.heap)
            self.ends = {key: end for key, end in self.ends.items() if end > self.now}

    def give_up(self, ticket: Ticket) -> None:
        # Give the cost back to the key, unless a later request of the key starts at this one's end.
        if self.ends.get(ticket.key) == ticket.start + ticket.tokens:
            self.ends[ticket.key] = ticket.start
        self.leave(ticket)

    def oldest(self) -> Ticket | None:
        return next(iter(self.waiting), None)

    def victim_for(self, key: str | None) -> Ticket | None:
        """Return the newest request of the key with the most requests; None if `key` would have as many."""
        waiting = Counter(ticket.key for ticket in self.waiting)
        largest, length = waiting.most_common(1)[0]
        if length <= waiting[key] + 1:
            return None
        return next(ticket for ticket in reversed(self.waiting) if ticket.key == largest)


class FairQueue:
    """See the module. At most `limit` requests of a class may wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lanes = {priority: _Lane() for priority in PRIORITIES}
        self._numbers = count()
        self._turns = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, ticket: Ticket) -> Ticket | None:
        """Add the ticket. Return the one that was dropped to make room for it, if any.

        Raises `QueueFullError`.
        """
        lane = self._lanes[ticket.priority]
        victim = None
        if len(lane.waiting) >= self._limit:
            victim = lane.victim_for(ticket.key) if lane.waiting else None
            if victim is None:
                raise QueueFullError
            self.discard(victim)
        lane.add(ticket, next(self._numbers))
        self._size += 1
        return victim

    def pop(self, now: float) -> Ticket:
        """Remove and return the next ticket. The queue must not be empty."""
        self._size -= 1
        self._turns += 1
        aged = self._aged(now) if self._turns % AGED_TURN == 0 else None
        if aged is not None:
            self._lanes[aged.priority].leave(aged)
            return aged
        return next(lane for lane in self._lanes.values() if lane.waiting).take_next()

    def pop_accepted(self, now: float, accepts: Callable[[Ticket], bool]) -> Ticket | None:
        """Remove and return the next accepted ticket; None if none of the first `MOST_LOOKED_AT` is."""
        aged = self._aged(now) if (self._turns + 1) % AGED_TURN == 0 else None
        ticket: Ticket | None = None
        if aged is not None and accepts(aged):
            ticket = aged
            self._lanes[aged.priority].leave(aged)
        left = MOST_LOOKED_AT
        for lane in self._lanes.values():
            if ticket is None and left:
                ticket, looked = lane.take_first(accepts, left)
                left -= looked
        if ticket is not None:
            self._size -= 1
            self._turns += 1
        return ticket

    def discard(self, ticket: Ticket) -> None:
        """Remove the ticket if it is in the queue."""
        lane = self._lanes[ticket.priority]
        if ticket in lane.waiting:
            self._size -= 1
            lane.give_up(ticket)

    def _aged(self, now: float) -> Ticket | None:
        oldest = [ticket for lane in self._lanes.values() if (ticket := lane.oldest()) is not None]
        aged = [ticket for ticket in oldest if now - ticket.arrived >= AGED_S[ticket.priority]]
        return min(aged, key=lambda ticket: ticket.arrived, default=None)
