"""What waits for the engine, and in which order it may go.

A class goes before the less urgent ones, but every fourth turn belongs to whoever has waited too long. Within
a class keys share by tokens (start-time fair queueing): a request starts where its key's one before it would
end, were the key alone, and the earliest start goes next. So a key with one request does not stand behind
another's hundred.
"""

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from serval.caller.priority import PRIORITIES, Priority

# Seconds of waiting after which a request no longer stands behind more urgent ones alone.
AGED_S: Final[Mapping[Priority, float]] = {"interactive": 5.0, "default": 10.0, "bulk": 30.0}
AGED_TURN: Final = 4
# Entries of the heap that are for nobody, before it is made anew.
_SLACK: Final = 64


@dataclass(eq=False)
class Ticket:
    """One request that waits. `tokens` is what it may cost: prompt and longest answer."""

    key: str | None
    priority: Priority
    tokens: int
    arrived: float
    start: float = 0.0


class QueueFullError(Exception):
    """There is no room, and no key has more waiting than this one."""


@dataclass
class _Lane:
    """The queue of one class."""

    # In order of arrival.
    waiting: dict[Ticket, None] = field(default_factory=dict)
    # By start; tickets that have left may still be in it.
    heap: list[tuple[float, int, Ticket]] = field(default_factory=list)
    # Where a key's next request starts, if that is later than now.
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
        # What it would have cost is not held against its key, if nothing behind it was counted from there.
        if self.ends.get(ticket.key) == ticket.start + ticket.tokens:
            self.ends[ticket.key] = ticket.start
        self.leave(ticket)

    def oldest(self) -> Ticket | None:
        return next(iter(self.waiting), None)

    def victim_for(self, key: str | None) -> Ticket | None:
        """The newest request of the key with most waiting; None if `key` would have as many."""
        waiting = Counter(ticket.key for ticket in self.waiting)
        largest, length = waiting.most_common(1)[0]
        if length <= waiting[key] + 1:
            return None
        return next(ticket for ticket in reversed(self.waiting) if ticket.key == largest)


class FairQueue:
    """See the module. `limit` is how many of one class may wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lanes = {priority: _Lane() for priority in PRIORITIES}
        self._numbers = count()
        self._turns = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, ticket: Ticket) -> Ticket | None:
        """Let the ticket wait; returns the one that has to make room for it, if any.

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
        """The ticket whose turn it is. Only if there is one."""
        self._size -= 1
        self._turns += 1
        aged = self._aged(now) if self._turns % AGED_TURN == 0 else None
        if aged is not None:
            self._lanes[aged.priority].leave(aged)
            return aged
        return next(lane for lane in self._lanes.values() if lane.waiting).take_next()

    def discard(self, ticket: Ticket) -> None:
        """The ticket waits no longer; nothing happens if it did not."""
        lane = self._lanes[ticket.priority]
        if ticket in lane.waiting:
            self._size -= 1
            lane.give_up(ticket)

    def _aged(self, now: float) -> Ticket | None:
        oldest = [ticket for lane in self._lanes.values() if (ticket := lane.oldest()) is not None]
        aged = [ticket for ticket in oldest if now - ticket.arrived >= AGED_S[ticket.priority]]
        return min(aged, key=lambda ticket: ticket.arrived, default=None)
