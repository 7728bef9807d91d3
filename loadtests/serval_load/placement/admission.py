"""Admission of requests before a place is used: at once, in the fair order of keys, or by conversation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from serval.scheduling.fair_queue import FairQueue, Ticket
from serval.scheduling.seats import Seat, Turn
from serval.scheduling.working_set import Waiting, WorkingSet, take_next
from serval_load.placement.engine_model import Clock

Kind = Literal["at once", "fair", "whole"]
# Requests at a place at once: an eighth more than it runs, as the gateway does by default.
SLOTS: Final = 288
_NO_LIMIT: Final = 1 << 30


class Lease(Protocol):
    """A request's part of what is limited, until it has ended."""

    @property
    def place(self) -> str | None:
        """Place that the request has to go to; None: any."""
        ...

    def end(self) -> None:
        """Give it back."""
        ...


# Called with the lease; None: the request has waited too long.
Go = Callable[[Lease | None], None]


class Admission(Protocol):
    """Admission at one gateway."""

    def ask(self, turn: Turn, wanted: str, go: Go) -> None:
        """Call `go` when the turn may run."""
        ...

    def poll(self) -> None:
        """Look at those that wait again."""
        ...


@dataclass
class _Free:
    place: str | None = None

    def end(self) -> None:
        """See `Lease`."""


class AtOnce:
    """No admission: requests queue in the engines, first come first served."""

    def ask(self, turn: Turn, wanted: str, go: Go) -> None:
        """See `Admission`."""
        go(_Free())

    def poll(self) -> None:
        """See `Admission`."""


@dataclass
class FairSlots:
    """The gateway's fair queue before a number of slots."""

    clock: Clock
    slots: int
    _queue: FairQueue = field(default_factory=lambda: FairQueue(_NO_LIMIT))
    _waiting: dict[Ticket, Go] = field(default_factory=dict)
    place: str | None = None

    def ask(self, turn: Turn, wanted: str, go: Go) -> None:
        """See `Admission`."""
        ticket = Ticket(turn.owner, "default", turn.tokens, self.clock.now)
        self._queue.push(ticket)
        self._waiting[ticket] = go
        self.poll()

    def end(self) -> None:
        """See `Lease`."""
        self.slots += 1
        self.poll()

    def poll(self) -> None:
        """See `Admission`."""
        while self.slots and len(self._queue):
            self.slots -= 1
            self._waiting.pop(self._queue.pop(self.clock.now))(self)


@dataclass
class _Seated:
    admission: "ByConversation"
    seat: Seat

    @property
    def place(self) -> str | None:
        """See `Lease`."""
        return self.seat.place_name

    def end(self) -> None:
        """See `Lease`."""
        self.admission.set.ended(self.seat, self.admission.clock.now)
        self.admission.poll()


@dataclass
class ByConversation:
    """The gateway's working set, with the fair queue before it; nobody waits longer than `bound_s`."""

    clock: Clock
    set: WorkingSet
    bound_s: float
    longest_s: float = 0.0
    refused: int = 0
    _queue: FairQueue = field(default_factory=lambda: FairQueue(_NO_LIMIT))
    _waiting: dict[Ticket, Waiting] = field(default_factory=dict)
    _go: dict[Ticket, Go] = field(default_factory=dict)

    def ask(self, turn: Turn, wanted: str, go: Go) -> None:
        """See `Admission`."""
        if not self._waiting or self.set.is_in(turn):
            seat = self.set.enter(turn, wanted, self.clock.now)
            if seat is not None:
                go(_Seated(self, seat))
                return
        ticket = Ticket(turn.owner, "default", turn.tokens, self.clock.now)
        self._queue.push(ticket)
        self._waiting[ticket], self._go[ticket] = Waiting(turn, wanted), go
        self.poll()

    def poll(self) -> None:
        """See `Admission`."""
        now = self.clock.now
        while self._waiting and (taken := take_next(self._queue, self._waiting, self.set, now)) is not None:
            ticket, seat = taken
            self.longest_s = max(self.longest_s, now - ticket.arrived)
            del self._waiting[ticket]
            self._go.pop(ticket)(_Seated(self, seat))
        for ticket in [ticket for ticket in self._waiting if now - ticket.arrived >= self.bound_s]:
            self._queue.discard(ticket)
            self.set.withdrawn(self._waiting.pop(ticket).turn)
            self.refused += 1
            self._go.pop(ticket)(None)
