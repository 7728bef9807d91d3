"""The working set: conversations whose KV fits the places, admitted whole.

While the conversations in use are larger than the caches, each turn evicts the prefix of another conversation
and computes its own again: the places thrash. As an operating system keeps few processes whole in memory
instead of all in part (Denning, "The working set model for program behavior", 1968), a conversation in the
set keeps its room from turn to turn until it leaves; the others wait whole.

- A conversation is *silent* when its agent is away for longer than it usually is. It leaves when another
  needs its room, and until then it may come back. Those of a key that rarely returns are silent at once.
- A request that has waited for half the bound may displace conversations between two turns that have been in
  the set for three quarters of it, the longest there first. One of the interactive class need not have
  waited, but then displaces no other interactive one. If that is not enough, its place admits nobody else
  before it.
- Conversations grow. Beyond what a place may overflow, the newest one between two turns leaves.

Nothing here reads a clock or does I/O: times are passed in. The gateway and the simulation of `serval_load`
use this module. All that is remembered is bounded.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal, Protocol

from serval.scheduling.fair_queue import FairQueue, Ticket
from serval.scheduling.seats import Habits, Owners, PlaceLimit, PlaceRoom, Seat, Turn

# Silent; displaced by a request that waited, or by one that grew; forgotten; its place is gone.
LeaveReason = Literal["silent", "displaced", "outgrown", "forgotten", "gone"]
LEAVE_REASONS: Final[tuple[LeaveReason, ...]] = ("silent", "displaced", "outgrown", "forgotten", "gone")
# Shares of the longest wait: after which others may be displaced, and for which these are not.
PATIENCE: Final = 0.5
PROTECTED: Final = 0.75
# Share of its room that the conversations of a place may grow to.
OVERFLOW: Final = 1.25
# Conversations that are remembered, in the set or not.
MOST_CONVERSATIONS: Final = 16_384
# Requests at once of one conversation that are told apart.
_MOST_BRANCHES: Final = 64
_NEWEST_INTERVAL: Final = 0.2
_LONGEST_ESTIMATE_S: Final = 600.0


@dataclass(frozen=True)
class Waiting:
    """A turn that waits for a place in the set, and the place that it would go to."""

    turn: Turn
    wanted: str


class SetObserver(Protocol):
    """Observer of the working set."""

    def conversation_admitted(self, waited_s: float) -> None:
        """Note that a conversation has entered the set after this wait."""
        ...

    def conversation_left(self, reason: LeaveReason) -> None:
        """Note that a conversation has left the set."""
        ...


class WorkingSet:
    """See the module. `enter` and `ended` are called for each request, `withdrawn` for one that gave up."""

    def __init__(self, *, bound_s: float, observer: SetObserver | None = None) -> None:
        """`bound_s` is the longest that a request waits; the caller sees to that."""
        self._patience_s = PATIENCE * bound_s
        self._protected_s = PROTECTED * bound_s
        self._observer = observer
        self._places: dict[str, PlaceRoom] = {}
        # Conversation for which a place keeps what becomes free.
        self._reserved: dict[str, bytes] = {}
        self._known: OrderedDict[bytes, Seat] = OrderedDict()
        self.owners = Owners()
        # Time at which each idle conversation is silent, and its turns then; stale if it has had another.
        self._deadlines: list[tuple[float, int, Seat, int]] = []
        self._numbers = count()
        self._now = float("-inf")
        # Time between two admissions of those that waited.
        self._interval_s = 1.0
        self._waiter_admitted_at = float("-inf")

    def __len__(self) -> int:
        return sum(len(place.seats) for place in self._places.values())

    @property
    def known(self) -> int:
        """Number of conversations that are remembered, in the set or not."""
        return len(self._known)

    @property
    def deadlines(self) -> int:
        """Number of silences that are waited for, stale ones included."""
        return len(self._deadlines)

    @property
    def places(self) -> Mapping[str, PlaceRoom]:
        """Rooms of the places, by name."""
        return self._places

    def resize(self, limits: Mapping[str, PlaceLimit]) -> None:
        """Set the places and their limits. Conversations of other places leave."""
        for name in [name for name in self._places if name not in limits]:
            for seat in list(self._places[name].seats):
                self._leave(seat, "gone")
            del self._places[name]
            self._reserved.pop(name, None)
        for name, (tokens, weight) in limits.items():
            place = self._places.setdefault(name, PlaceRoom(name, tokens, weight))
            place.limit, place.weight = tokens, weight

    def is_in(self, turn: Turn) -> bool:
        """Return True if the turn's conversation is in the set."""
        seat = self._seat_of(turn)[1]
        return seat is not None and seat.place is not None

    def enter(self, turn: Turn, wanted: str, now: float, *, waited_s: float = 0.0) -> Seat | None:
        """Let the turn run at its conversation's place, or else at `wanted` or another; None: it has to wait.

        While no place is known nobody waits, and the seat has no place.
        """
        now = self._tick(now)
        name, seat = self._seat_of(turn)
        if seat is not None and seat.place is not None:
            self._move_if_there_is_room(seat, wanted, turn)
            self._grow(seat, seat.place, turn)
        else:
            place = self._place_for(turn, wanted, now, waited_s)
            if place is None and self._places:
                return None
            if seat is None:
                seat = self._new_seat(name, turn)
            if place is not None:
                self._admit(seat, place, turn, now, waited_s)
        self._begin(seat, turn, now - waited_s)
        return seat

    def ended(self, seat: Seat, now: float) -> None:
        """Note that a turn has ended, however it did."""
        now = self._tick(now)
        seat.running -= 1
        if seat.running:
            return
        seat.ended_at = now
        heapq.heappush(self._deadlines, (now + seat.limit_s, next(self._numbers), seat, seat.turns))
        if seat.place is not None and seat.is_guest:
            seat.place.silent[seat] = None

    def moved(self, seat: Seat, name: str) -> None:
        """Note that a turn runs at another place: its conversation is there from now on."""
        place = self._places.get(name)
        if place is None or place is seat.place:
            return
        if seat.place is not None:
            seat.place.remove(seat)
        place.add(seat)

    def withdrawn(self, turn: Turn) -> None:
        """Note that a request waits no longer."""
        for name in [name for name, holder in self._reserved.items() if holder == turn.conversation]:
            del self._reserved[name]

    def estimate_s(self, ahead: int) -> float:
        """Return the seconds that a request is likely to wait with `ahead` others before it."""
        return min(max(self._interval_s * (ahead + 1), 1.0), _LONGEST_ESTIMATE_S)

    # ---- conversations

    def _seat_of(self, turn: Turn) -> tuple[bytes, Seat | None]:
        """Return the conversation. Requests of one that run at once and differ count as several."""
        name = turn.conversation
        for branch in range(1, _MOST_BRANCHES):
            seat = self._known.get(name)
            if seat is None or not seat.running or seat.tail == turn.tail:
                return name, seat
            name = turn.conversation + bytes((branch,))
        return name, self._known.get(name)

    def _new_seat(self, name: bytes, turn: Turn) -> Seat:
        seat = self._known[name] = Seat(name, self.owners.of(turn.owner), turn.shared_key, turn.shared)
        for _ in range(len(self._known) - MOST_CONVERSATIONS):
            oldest_name, oldest = next(iter(self._known.items()))
            if oldest.running or oldest is seat:
                self._known.move_to_end(oldest_name)
                continue
            self._leave(oldest, "forgotten")
            del self._known[oldest_name]
        return seat

    def _admit(self, seat: Seat, place: PlaceRoom, turn: Turn, now: float, waited_s: float) -> None:
        seat.shared_key, seat.shared = turn.shared_key, turn.shared
        seat.room = place.room_of(turn, turn.shared, seat.habits)
        seat.admitted_at = now
        place.add(seat)
        self.withdrawn(turn)
        if waited_s > 0:
            since = max(self._waiter_admitted_at, now - waited_s)
            self._interval_s += _NEWEST_INTERVAL * (now - since - self._interval_s)
            self._waiter_admitted_at = now
        if self._observer is not None:
            self._observer.conversation_admitted(waited_s)

    def _begin(self, seat: Seat, turn: Turn, arrived: float) -> None:
        if not seat.running:
            if seat.ended_at is not None:
                for think in (seat.think, seat.habits.think, self.owners.all.think):
                    think.observe(arrived - seat.ended_at)
                if seat.turns == 1:
                    self._note_return(seat, True)
            # The turn before may have been with another gateway.
            seat.turns = max(seat.turns, int(turn.continues)) + 1
            seat.habits.note_length(turn.tokens)
        seat.running += 1
        seat.tail, seat.interactive = turn.tail, turn.interactive
        self._known.move_to_end(seat.name)
        if seat.place is not None:
            seat.place.silent.pop(seat, None)

    def _note_return(self, seat: Seat, returned: bool) -> None:
        seat.habits.note_return(returned)
        self.owners.all.note_return(returned)

    def _move_if_there_is_room(self, seat: Seat, wanted: str, turn: Turn) -> None:
        place = self._places.get(wanted)
        if place is None or place is seat.place or seat.running:
            return
        if place.missing(turn, seat.habits) <= 0:
            self.moved(seat, wanted)

    def _grow(self, seat: Seat, place: PlaceRoom, turn: Turn) -> None:
        if seat.running:
            return  # the same prompt once more
        place.resize(seat, place.room_of(turn, seat.shared, seat.habits))
        if place.used <= OVERFLOW * place.limit:
            return
        for other in [*place.silent, *reversed(place.seats)]:
            if other is not seat and not other.running and other.place is place:
                self._leave(other, "outgrown")
                if place.used <= OVERFLOW * place.limit:
                    return

    def _leave(self, seat: Seat, reason: LeaveReason) -> None:
        if seat.place is not None:
            seat.place.remove(seat)
            if self._observer is not None:
                self._observer.conversation_left(reason)

    def _tick(self, now: float) -> float:
        """Note who is silent by now. A clock that goes back stands still."""
        self._now = now = max(now, self._now)
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, seat, turns = heapq.heappop(self._deadlines)
            if seat.turns != turns:
                continue
            if turns == 1:
                self._note_return(seat, False)
            if seat.place is not None:
                seat.place.silent.setdefault(seat)
        return now

    # ---- room

    def _place_for(self, turn: Turn, wanted: str, now: float, waited_s: float) -> PlaceRoom | None:
        late = waited_s >= self._patience_s
        habits = self.owners.of(turn.owner)
        # A single question with a long system prompt is cached where it is wanted, and would elsewhere be
        # computed again. A conversation that goes on makes up for that.
        only_there = turn.tokens <= 2 * turn.shared and not habits.may_grow(turn) and not late
        for place in self._in_order(wanted):
            if only_there and place.name != wanted and wanted in self._places:
                break
            may_enter = self._reserved.get(place.name, turn.conversation) == turn.conversation
            if (may_enter or turn.interactive) and self._make_room(place, turn, habits, now, late=late):
                return place
        if (late or turn.interactive) and wanted in self._places:
            self._reserved.setdefault(wanted, turn.conversation)
        return None

    def _in_order(self, wanted: str) -> Iterator[PlaceRoom]:
        """Return the wanted place and then the others, but none of less weight than the wanted one.

        A canary, which has the most room, would else get more than its share.
        """
        first = self._places.get(wanted)
        if first is not None:
            yield first
        others = [
            place
            for place in self._places.values()
            if place is not first and (first is None or place.weight >= first.weight)
        ]
        yield from sorted(others, key=lambda place: place.free, reverse=True)

    def _make_room(self, place: PlaceRoom, turn: Turn, habits: Habits, now: float, *, late: bool) -> bool:
        """Return True if the turn's conversation fits; those who have to leave for it do so."""
        missing = place.missing(turn, habits)
        if missing <= 0:
            return True
        leaving: list[tuple[Seat, LeaveReason]] = [(seat, "silent") for seat in place.silent]
        if late or turn.interactive:
            leaving += [(seat, "displaced") for seat in self._displaceable(place, now, late=late)]
        number = 0
        while missing > 0 and number < len(leaving):
            missing -= leaving[number][0].room
            number += 1
        # An empty place takes anyone.
        if missing > 0 and number < len(place.seats):
            return False
        for seat, reason in leaving[:number]:
            self._leave(seat, reason)
        return True

    def _displaceable(self, place: PlaceRoom, now: float, *, late: bool) -> Iterator[Seat]:
        for seat in place.seats:
            protected = now - seat.admitted_at < self._protected_s or seat.running
            if not protected and seat not in place.silent and (late or not seat.interactive):
                yield seat


def take_next(
    queue: FairQueue, waiting: Mapping[Ticket, Waiting], working_set: WorkingSet, now: float
) -> tuple[Ticket, Seat] | None:
    """Remove the next ticket in fair order that may run from the queue, and enter its turn."""
    seats: list[Seat] = []

    def accepts(ticket: Ticket) -> bool:
        one = waiting[ticket]
        seat = working_set.enter(one.turn, one.wanted, now, waited_s=max(0.0, now - ticket.arrived))
        if seat is not None:
            seats.append(seat)
        return seat is not None

    ticket = queue.pop_accepted(now, accepts)
    return None if ticket is None else (ticket, seats[0])
