"""Conversations that are known, and the room that those in the working set have at their places.

Nothing here reads a clock. Lengths are in tokens.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from msgspec import Struct

from serval.scheduling.think_time import ThinkTime

# A conversation counts as this share of a place's room at most, or a large one would empty the place.
LARGEST: Final = 0.5
# Keys that are remembered.
MOST_OWNERS: Final = 4096
# Share of first turns that a second one has to follow, or a key's conversations are not expected to return.
RETURNS: Final = 0.3
# Weight of what is expected of a key, in conversations, and of each conversation when there is a newer one.
_EXPECTED: Final = 4.0
_KEPT: Final = 0.9
# Weight of the newest turn.
_NEWEST_LENGTH: Final = 0.05


class Turn(Struct, frozen=True):
    """A request as the working set sees it."""

    owner: str | None
    # Hashes of owner and prompt up to the end of the first user message, and of owner and shared part.
    conversation: bytes
    shared_key: bytes
    # System prompt and tools, which other conversations of the owner share.
    shared: int
    # Prompt and usual answer.
    tokens: int
    # True if the prompt has an earlier answer of the model.
    continues: bool
    # Hash of the prompt's end, which tells requests of one conversation apart that run at once.
    tail: int
    interactive: bool = False


@dataclass
class Habits:
    """Usual behaviour of the conversations of one key or, without `others`, of all."""

    others: "Habits | None" = None
    think: ThinkTime = field(default_factory=ThinkTime)
    # Mean length over the latest turns; 0: unknown.
    length: float = 0.0
    _turns: int = 0
    # Number of the latest conversations, and of those of them that had a second turn.
    _began: float = 0.0
    _returned: float = 0.0

    @property
    def returns(self) -> float:
        """Share of conversations that have a second turn. A key is like the others until more is known."""
        expected = 1.0 if self.others is None else self.others.returns
        return (self._returned + _EXPECTED * expected) / (self._began + _EXPECTED)

    @property
    def expects_return(self) -> bool:
        """True if a conversation's first turn is likely to have a second one."""
        return self.returns >= RETURNS

    def may_grow(self, turn: Turn) -> bool:
        """True if the turn is not expected to be its conversation's only one."""
        return turn.continues or self.expects_return

    def note_return(self, returned: bool) -> None:
        """Note that a conversation has a second turn, or none for longer than usual."""
        self._began = _KEPT * self._began + 1
        self._returned = _KEPT * self._returned + returned

    def note_length(self, tokens: int) -> None:
        """Note the length of a turn."""
        self._turns += 1
        self.length += (tokens - self.length) * max(_NEWEST_LENGTH, 1 / self._turns)


class Owners:
    """Habits of all keys, and of those used most recently."""

    def __init__(self) -> None:
        self.all = Habits()
        self._owners: OrderedDict[str | None, Habits] = OrderedDict()

    def __len__(self) -> int:
        return len(self._owners)

    def of(self, owner: str | None) -> Habits:
        """Return the habits of a key."""
        found = self._owners.get(owner)
        if found is None:
            # Lengths are its own affair: others' large conversations must not make its own count as large.
            found = Habits(self.all, replace(self.all.think))
            self._owners[owner] = found
            if len(self._owners) > MOST_OWNERS:
                self._owners.popitem(last=False)
        self._owners.move_to_end(owner)
        return found


@dataclass(eq=False)
class Seat:
    """A conversation. Its `room` is without the shared part; `place` is None if it is not in the set."""

    name: bytes
    habits: Habits
    shared_key: bytes
    shared: int
    place: "PlaceRoom | None" = None
    room: float = 0.0
    tail: int = 0
    interactive: bool = False
    running: int = 0
    turns: int = 0
    admitted_at: float = 0.0
    ended_at: float | None = None
    think: ThinkTime = field(default_factory=ThinkTime)

    @property
    def place_name(self) -> str | None:
        """Name of its place."""
        return None if self.place is None else self.place.name

    @property
    def limit_s(self) -> float:
        """Silence that is longer than usual for its agent."""
        return (self.habits.think if self.think.mean_s is None else self.think).limit_s

    @property
    def is_guest(self) -> bool:
        """True if it is not expected to come back."""
        return self.turns <= 1 and not self.habits.expects_return


class PlaceLimit(NamedTuple):
    """Tokens that conversations may use at a place, and its weight as a home of conversations."""

    tokens: float
    weight: float = 1.0


@dataclass(eq=False)
class PlaceRoom:
    """Room of a place for conversations, and those that have some."""

    name: str
    limit: float
    weight: float
    used: float = 0.0
    # Number of conversations with each shared part, which has its room once, and its tokens.
    shared: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    # In order of admission; and the silent ones among them, in the order in which they became so.
    seats: dict[Seat, None] = field(default_factory=dict)
    silent: dict[Seat, None] = field(default_factory=dict)

    @property
    def free(self) -> float:
        """Room that no conversation has; negative if they have grown beyond the limit."""
        return self.limit - self.used

    def room_of(self, turn: Turn, shared: int, habits: Habits) -> float:
        """Return the room that the turn's conversation needs beside its shared part.

        One that may come back gets that of its key's usual conversation, because it will grow.
        """
        tokens = max(turn.tokens, habits.length) if habits.may_grow(turn) else turn.tokens
        return min(max(tokens - shared, 0), self.limit * LARGEST)

    def missing(self, turn: Turn, habits: Habits) -> float:
        """Return the room that has to become free for the turn's conversation; 0 or less if it fits."""
        shared = 0 if turn.shared_key in self.shared else turn.shared
        return self.room_of(turn, turn.shared, habits) + shared - self.free

    def add(self, seat: Seat) -> None:
        """Give room to a conversation, the newest now."""
        seat.place = self
        self.seats[seat] = None
        number, tokens = self.shared.get(seat.shared_key, (0, seat.shared))
        self.shared[seat.shared_key] = number + 1, tokens
        self.used += seat.room + (0 if number else tokens)

    def resize(self, seat: Seat, room: float) -> None:
        """Give a conversation more room, or less."""
        self.used += room - seat.room
        seat.room = room

    def remove(self, seat: Seat) -> None:
        """Take a conversation's room back."""
        seat.place = None
        del self.seats[seat]
        self.silent.pop(seat, None)
        number, tokens = self.shared.pop(seat.shared_key)
        if number > 1:
            self.shared[seat.shared_key] = number - 1, tokens
        self.used -= seat.room + (0 if number > 1 else tokens)
