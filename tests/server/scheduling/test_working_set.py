"""The working set: conversations that fit, admitted whole, whatever their users try."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serval.caller.priority import Priority
from serval.scheduling import seats, working_set
from serval.scheduling.fair_queue import FairQueue, Ticket
from serval.scheduling.seats import PlaceLimit, Seat, Turn
from serval.scheduling.think_time import FIRST_LIMIT_S
from serval.scheduling.working_set import (
    LEAVE_REASONS,
    OVERFLOW,
    PATIENCE,
    PROTECTED,
    LeaveReason,
    Waiting,
    WorkingSet,
    take_next,
)

BOUND_S = 100.0
LATE_S = PATIENCE * BOUND_S


def turn(name: str, tokens: int = 100, *, owner: str = "a", **fields: Any) -> Turn:
    given = {"shared": 0, "shared_key": b"", "continues": True, "tail": tokens, **fields}
    return Turn(owner=owner, conversation=name.encode(), tokens=tokens, **given)


class Observer:
    def __init__(self) -> None:
        self.waits: list[float] = []
        self.left: list[LeaveReason] = []

    def conversation_admitted(self, waited_s: float) -> None:
        self.waits.append(waited_s)

    def conversation_left(self, reason: LeaveReason) -> None:
        self.left.append(reason)


class World:
    """A working set with places of 1000 tokens, and a clock."""

    def __init__(self, places: int = 1, *, limit: float = 1000.0) -> None:
        self.now = 0.0
        self.observer = Observer()
        self.set = WorkingSet(bound_s=BOUND_S, observer=self.observer)
        self.set.resize({f"p{number}": PlaceLimit(limit) for number in range(places)})

    def enter(self, one: Turn, wanted: str = "p0", *, waited_s: float = 0.0) -> Seat | None:
        return self.set.enter(one, wanted, self.now, waited_s=waited_s)

    def ask(self, one: Turn, wanted: str = "p0", *, waited_s: float = 0.0) -> str | None:
        """Run a whole turn; return its place."""
        seat = self.enter(one, wanted, waited_s=waited_s)
        if seat is None:
            return None
        place = seat.place_name
        self.set.ended(seat, self.now)
        return place

    def members(self) -> set[str]:
        return {seat.name.decode() for place in self.set.places.values() for seat in place.seats}


# ---- admission


def test_conversations_are_admitted_while_they_fit() -> None:
    world = World()
    assert [world.ask(turn(name, 400)) for name in "abc"] == ["p0", "p0", None]
    assert world.observer.waits == [0.0, 0.0]


def test_conversation_in_the_set_keeps_its_room_from_turn_to_turn() -> None:
    world = World()
    assert world.ask(turn("a", 400))
    assert world.ask(turn("b", 400))
    for tokens in (420, 440, 460):
        world.now += 3
        assert world.ask(turn("c", 400)) is None
        assert world.ask(turn("a", tokens)) == "p0"


def test_conversation_that_finds_no_room_where_it_belongs_goes_elsewhere_for_good() -> None:
    world = World(2)
    assert world.ask(turn("a", 400)) == "p0"
    assert world.ask(turn("b", 400)) == "p0"
    assert world.ask(turn("c", 400)) == "p1"
    assert world.ask(turn("c", 410)) == "p1"


def test_single_question_waits_where_its_system_prompt_is_cached_until_it_is_late() -> None:
    """Elsewhere the system prompt would be computed again, and in an overload for each question."""
    world = World(2)
    for number in range(12):
        world.ask(turn(f"{number}", 10, owner="questions", continues=False))
        world.now += 20.0
    world.ask(turn("a", 500))
    world.ask(turn("b", 500))
    question = turn("c", 150, owner="questions", shared=100, shared_key=b"s", continues=False)
    assert world.ask(question) is None
    assert world.ask(question, waited_s=LATE_S) == "p1"


def test_places_of_unknown_size_and_no_places_let_all_pass() -> None:
    world = World(limit=float("inf"))
    assert all(world.ask(turn(str(number), 10**9)) for number in range(20))
    nowhere = World(0)
    seat = nowhere.enter(turn("a"))
    assert seat is not None
    assert seat.place_name is None
    nowhere.set.ended(seat, 1.0)


def test_shared_prefix_of_parallel_subagents_has_room_once() -> None:
    world = World()
    swarm = [turn(str(number), 700, shared=600, shared_key=b"s") for number in range(5)]
    assert [world.ask(one) for one in swarm] == ["p0"] * 4 + [None]
    # One of another system prompt would need room for all of it.
    assert world.ask(turn("other", 700, shared=600, shared_key=b"t")) is None
    assert world.set.places["p0"].used == 600 + 4 * 100
    world.set.resize({})
    assert world.observer.left == ["gone"] * 4


def test_requests_of_one_conversation_at_once_count_as_several() -> None:
    """A key must not pass the gate with a thousand prompts that begin alike."""
    world = World()
    begun = [world.enter(turn("a", 400, tail=number)) for number in range(4)]
    assert [seat is not None for seat in begun] == [True, True, False, False]
    # The choices of one call have the same prompt, which is in the cache once.
    assert world.enter(turn("a", 400, tail=0)) is begun[0]


# ---- silence


def test_silent_conversation_leaves_when_another_needs_its_room() -> None:
    world = World()
    world.ask(turn("a", 500))
    world.ask(turn("b", 500))
    world.now = FIRST_LIMIT_S - 0.1
    assert world.ask(turn("c", 500)) is None
    world.now = FIRST_LIMIT_S
    assert world.ask(turn("c", 500)) == "p0"
    assert world.members() == {"b", "c"}
    assert world.observer.left == ["silent"]


def test_silent_conversation_that_nobody_displaced_comes_back_at_once() -> None:
    world = World()
    world.ask(turn("a", 500))
    world.now = 1000.0
    assert world.ask(turn("a", 510)) == "p0"
    world.ask(turn("b", 500))
    assert world.ask(turn("c", 500)) is None


def test_silence_is_measured_by_what_is_usual_for_the_agent() -> None:
    world = World()
    for second in range(240):
        world.now += 1.0
        world.ask(turn("quick", 500))
        if second % 30 == 0:
            world.ask(turn("slow", 500, owner="b"))
    world.now += 3.0
    assert world.ask(turn("next", 500)) == "p0"
    assert world.members() == {"slow", "next"}


def test_running_conversation_is_never_silent() -> None:
    world = World()
    running = world.enter(turn("a", 500))
    world.ask(turn("b", 500))
    world.now = 10_000.0
    assert world.ask(turn("c", 500)) == "p0"
    assert world.members() == {"a", "c"}
    assert running is not None


def test_one_shot_conversations_of_a_key_do_not_lock_out_others() -> None:
    """They have room while they run, once it is known that the key does not come back."""
    world = World()
    for number in range(40):
        world.ask(turn(f"shot {number}", 100, owner="one-shots", continues=False))
        world.now += 2.0
    for number in range(10):
        world.ask(turn(f"last {number}", 100, owner="one-shots", continues=False))
    assert world.ask(turn("agent", 500, owner="b")) == "p0"
    assert world.observer.left.count("displaced") == 0


def test_new_key_is_expected_to_be_like_the_others() -> None:
    world = World()
    for number in range(40):
        world.ask(turn(f"shot {number}", 100, owner=f"key {number}", continues=False))
        world.now += 2.0
    seat = world.enter(turn("x", 100, owner="new", continues=False))
    assert seat is not None
    assert seat.is_guest


# ---- displacement


def test_late_request_displaces_the_one_that_is_there_longest() -> None:
    world = World()
    world.ask(turn("a", 500))
    world.now = 1.0
    world.ask(turn("b", 500))
    for _ in range(int(PROTECTED * BOUND_S / 4) + 1):
        world.now += 4.0
        world.ask(turn("a", 500))
        world.ask(turn("b", 500))
    assert world.ask(turn("c", 500), waited_s=LATE_S - 1) is None
    assert world.ask(turn("c", 500), waited_s=LATE_S) == "p0"
    assert world.members() == {"b", "c"}
    assert world.observer.left == ["displaced"]


def test_conversation_is_not_displaced_before_its_minimum_nor_while_it_runs() -> None:
    world = World()
    running = world.enter(turn("a", 500))
    world.ask(turn("b", 500))
    world.now = 5.0
    assert world.ask(turn("c", 500), waited_s=LATE_S) is None
    world.now = 10.0
    world.ask(turn("b", 500))
    assert world.members() == {"a", "b"}
    assert running is not None
    world.set.ended(running, world.now)


def test_interactive_request_displaces_others_at_once_but_no_interactive_one() -> None:
    world = World()
    world.ask(turn("a", 500))
    world.ask(turn("b", 500, interactive=True))
    for _ in range(20):
        world.now += 4.0
        world.ask(turn("a", 500))
        world.ask(turn("b", 500, interactive=True))
    assert world.ask(turn("c", 500)) is None
    assert world.ask(turn("d", 500, interactive=True)) == "p0"
    assert world.ask(turn("e", 500, interactive=True)) is None
    assert world.members() == {"b", "d"}


def test_room_that_becomes_free_is_kept_for_a_large_late_request() -> None:
    """Small requests would otherwise pass a large one for ever."""
    world = World()
    running = [world.enter(turn(name, 250)) for name in "abcd"]
    large, small = turn("large", 500), turn("small", 100)
    assert world.enter(large, waited_s=LATE_S) is None
    first = running[0]
    assert first is not None
    world.set.ended(first, 0.0)
    world.now = FIRST_LIMIT_S
    assert world.enter(small) is None
    assert world.enter(large, waited_s=LATE_S) is None
    second = running[1]
    assert second is not None
    world.set.ended(second, world.now)
    world.now += FIRST_LIMIT_S
    assert world.enter(small) is None
    assert world.enter(large, waited_s=LATE_S) is not None


def test_request_that_gave_up_keeps_no_room_for_itself() -> None:
    world = World()
    world.enter(turn("a", 450))
    world.enter(turn("b", 450))
    large = turn("large", 400)
    assert world.enter(large, waited_s=LATE_S) is None
    small = turn("small", 100, owner="b")
    assert world.enter(small) is None
    world.set.withdrawn(large)
    assert world.enter(small) is not None


# ---- sizes


def test_conversation_larger_than_a_place_counts_as_half_of_it() -> None:
    world = World()
    assert world.ask(turn("huge", 5000)) == "p0"
    assert world.ask(turn("a", 400, owner="b")) == "p0"
    assert world.ask(turn("huge", 9000)) == "p0"
    assert world.set.places["p0"].used == 900


def test_empty_place_takes_a_conversation_whatever_its_shared_part() -> None:
    world = World()
    assert world.ask(turn("huge", 5000, shared=4000, shared_key=b"s")) == "p0"


def test_growing_conversations_displace_the_newest_between_two_turns() -> None:
    world = World()
    for name in "abcd":
        world.now += 1.0
        assert world.ask(turn(name, 240)) == "p0"
    running = world.enter(turn("d", 240))
    world.ask(turn("a", 400))
    assert world.members() == {"a", "b", "c", "d"}
    world.ask(turn("a", 500))
    world.ask(turn("b", 400))
    assert world.members() == {"a", "b", "d"}
    assert world.observer.left == ["outgrown"]
    assert world.set.places["p0"].used <= OVERFLOW * 1000
    assert running is not None


def test_conversation_that_is_made_shorter_gives_room_back() -> None:
    world = World()
    for tokens in (500, 100, 100, 100):
        world.ask(turn("a", tokens))
    assert world.set.places["p0"].used < 300


def test_new_conversation_of_an_agent_needs_room_to_grow() -> None:
    """Otherwise as many are admitted as fit at their shortest, and they displace each other."""
    world = World()
    for tokens in (50, 400, 450):
        world.ask(turn("a", tokens))
    world.set.resize({})
    world.set.resize({"p0": PlaceLimit(1000)})
    assert [world.ask(turn(name, 50, continues=False)) for name in "bcdefghij"].count("p0") < 6


# ---- places


def test_conversations_of_a_place_that_is_gone_are_admitted_anew() -> None:
    world = World(2)
    assert world.ask(turn("a", 500), "p1") == "p1"
    running = world.enter(turn("b", 500), "p1")
    world.set.resize({"p0": PlaceLimit(1000)})
    assert world.ask(turn("a", 510), "p0") == "p0"
    assert running is not None
    world.set.ended(running, 1.0)
    assert world.observer.left == ["gone", "gone"]
    assert len(world.set) == 1


def test_conversation_follows_a_request_that_ran_elsewhere() -> None:
    world = World(2)
    seat = world.enter(turn("a", 500))
    assert seat is not None
    world.set.moved(seat, "p1")
    world.set.moved(seat, "p1")
    world.set.moved(seat, "no such place")
    world.set.ended(seat, 0.0)
    assert world.ask(turn("a", 500), "p1") == "p1"
    assert [place.used for place in world.set.places.values()] == [0, 500]


def test_conversation_moves_to_an_idle_place_that_has_room() -> None:
    world = World(2)
    world.ask(turn("a", 500))
    assert world.ask(turn("a", 500), "p1") == "p1"
    world.ask(turn("b", 500), "p0")
    world.ask(turn("c", 500), "p0")
    assert world.ask(turn("a", 500), "p0") == "p1"


# ---- clocks and memory


def test_clock_that_goes_back_stands_still() -> None:
    world = World()
    world.now = 1000.0
    world.ask(turn("a", 500))
    world.now = 10.0
    world.ask(turn("b", 500))
    world.now = 1000.0 + FIRST_LIMIT_S - 1
    assert world.ask(turn("c", 500)) is None
    world.now += 1
    assert world.ask(turn("c", 500)) == "p0"


def test_clock_that_jumps_ahead_makes_all_silent_and_loses_nothing() -> None:
    world = World()
    world.ask(turn("a", 500))
    world.ask(turn("b", 500))
    world.now = 1e9
    assert world.ask(turn("a", 500)) == "p0"
    assert world.ask(turn("c", 500)) == "p0"
    assert world.members() == {"a", "c"}
    seat = world.enter(turn("a", 500))
    assert seat is not None
    assert seat.limit_s <= 120.0


def test_memory_of_conversations_and_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_set, "MOST_CONVERSATIONS", 50)
    monkeypatch.setattr(seats, "MOST_OWNERS", 20)
    world = World(limit=float("inf"))
    running = world.enter(turn("running"))
    for number in range(500):
        world.now += 1.0
        world.ask(turn(f"{number}", owner=f"key {number}"))
    assert world.set.known == 50
    assert len(world.set.owners) == 20
    assert "running" in world.members()
    assert running is not None
    assert world.observer.left == ["forgotten"] * 451
    assert world.set.deadlines <= 130


def test_waiting_requests_are_not_remembered_by_the_set() -> None:
    world = World()
    world.enter(turn("a", 500))
    world.enter(turn("b", 500))
    for number in range(100):
        assert world.enter(turn(f"waiting {number}", 500), waited_s=LATE_S) is None
    assert world.set.known == 2


# ---- order


class Line:
    """Requests that wait in the fair queue, and a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queue = FairQueue(1000)
        self.waiting: dict[Ticket, Waiting] = {}

    def add(self, one: Turn, priority: Priority = "default") -> None:
        ticket = Ticket(one.owner, priority, one.tokens, self.world.now)
        self.queue.push(ticket)
        self.waiting[ticket] = Waiting(one, "p0")

    def admitted(self) -> list[str]:
        names = []
        while (taken := take_next(self.queue, self.waiting, self.world.set, self.world.now)) is not None:
            names.append(self.waiting[taken[0]].turn.conversation.decode())
        return names


def test_keys_take_turns_and_a_large_conversation_does_not_block_small_ones() -> None:
    world = World()
    world.enter(turn("there", 450))
    line = Line(world)
    for number in range(30):
        line.add(turn(f"large {number}", 500 if number else 490, owner="greedy"))
    line.add(turn("small", 60, owner="modest"))
    admitted = line.admitted()
    assert "small" in admitted
    assert len(admitted) == 2


def test_interactive_class_goes_first() -> None:
    world = World()
    line = Line(world)
    line.add(turn("bulk", 500), "bulk")
    line.add(turn("default", 500))
    line.add(turn("interactive", 500, interactive=True), "interactive")
    assert line.admitted() == ["interactive", "default"]


def test_estimate_follows_the_rate_at_which_waiting_requests_are_admitted() -> None:
    world = World()
    assert world.set.estimate_s(0) >= 1.0
    world.enter(turn("a", 500))
    for number in range(40):
        world.now += 8.0
        assert world.enter(turn(f"b{number}", 400), waited_s=8.0) is not None
        world.set.resize({})
        world.set.resize({"p0": PlaceLimit(1000)})
    assert world.set.estimate_s(0) == pytest.approx(8.0, rel=0.05)
    assert world.set.estimate_s(4) == pytest.approx(40.0, rel=0.05)


STEPS = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"),
        st.integers(1, 1500),
        st.integers(0, 300),
        st.sampled_from(["p0", "p1", "gone"]),
        st.sampled_from([0.0, LATE_S]),
        st.sampled_from([-5.0, 0.0, 1.0, 20.0]),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_room_is_accounted_for_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    world = World(2)
    running: list[Seat] = []
    for name, tokens, shared, wanted, waited_s, passes_s, end in steps:
        world.now += passes_s
        one = turn(name, tokens, shared=min(shared, tokens), shared_key=bytes([shared % 3]), owner=name)
        seat = world.enter(one, wanted, waited_s=waited_s)
        if seat is not None:
            running.append(seat)
        if end and running:
            world.set.ended(running.pop(0), world.now)
        for place in world.set.places.values():
            parts = {seat.shared_key for seat in place.seats}
            assert set(place.shared) == parts
            expected = sum(seat.room for seat in place.seats) + sum(n for _, n in place.shared.values())
            assert place.used == pytest.approx(expected)
            assert all(seat.place is place for seat in place.seats)
            assert set(place.silent) <= set(place.seats)
            assert not any(seat.running for seat in place.silent)
    for seat in running:
        world.set.ended(seat, world.now)
    world.set.resize({})
    assert len(world.set) == 0
    assert set(world.observer.left) <= set(LEAVE_REASONS)


def test_conversation_that_does_not_fit_goes_only_where_it_may() -> None:
    world = World(2)
    assert [world.ask(turn(name, 400)) for name in "abc"] == ["p0", "p0", "p1"]
    strict = World(2)
    strict.set.resize({"p0": PlaceLimit(1000.0), "p1": PlaceLimit(1000.0, weight=0.5)})
    assert [strict.ask(turn(name, 400)) for name in "abc"] == ["p0", "p0", None]
    assert strict.ask(turn("d", 400), "p1") == "p1"
