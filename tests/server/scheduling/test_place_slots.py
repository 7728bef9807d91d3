"""Slots of several places before one fair queue: waited for, taken elsewhere in time, shared with others."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serval.engine.discovery import FoundEngine
from serval.engine.place import FleetEngine, Place, places_of
from serval.engine.protocol import EngineInfo, RankLoad
from serval.errors import EngineOverloadedError, ShuttingDownError
from serval.scheduling.place_slots import PlaceSlots, Wish

NEVER = float("inf")


def place_of(number: int) -> Place:
    engine = FleetEngine(FoundEngine(f"e{number}", f"http://e{number}"), cast(Any, None), state="ready")
    engine.info = EngineInfo("", 1, 1, max_running_requests=2)
    engine.places = places_of(engine, [RankLoad()])
    return engine.places[0]


class World:
    """Places, their slots, and a clock."""

    def __init__(self, places: int = 2, *, capacity: int = 1, sharers: int = 1, limit: int = 100) -> None:
        self.places = [place_of(number) for number in range(places)]
        self.now = 0.0
        self.slots = PlaceSlots(
            lambda: [place for place in self.places if place.is_ready],
            capacity=lambda _: capacity,
            sharers=sharers,
            queue_limit=limit,
            timeout_s=60.0,
            now=lambda: self.now,
        )
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[Place]] = []

    async def want(
        self, name: str, place: int, *, moving_s: float = NEVER, without: tuple[int, ...] = (), key: str = "a"
    ) -> "asyncio.Task[Place]":
        refused = [self.places[number].engine for number in without]

        async def wait() -> Place:
            wish = Wish(self.places[place], moving_s, without=refused)
            got = await self.slots.acquire(key, "default", 10, wish)
            self.order.append(name)
            return got

        task = asyncio.create_task(wait())
        self.tasks.append(task)
        await steps()
        return task


async def steps() -> None:
    """Run every task that is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_slots_are_taken_at_once_while_their_place_has_some() -> None:
    world = World(capacity=2)
    first, second = world.places
    assert [world.slots.try_acquire(first) for _ in range(3)] == [True, True, False]
    assert world.slots.try_acquire(second)
    assert world.slots.in_use == 3


async def test_freed_place_goes_to_the_first_that_wants_it() -> None:
    world = World()
    first, second = world.places
    assert world.slots.try_acquire(first)
    assert world.slots.try_acquire(second)
    for name, place in (("one", 0), ("two", 1), ("three", 0)):
        await world.want(name, place)
    world.slots.release(second)
    await steps()
    assert world.order == ["two"]
    world.slots.release(first)
    await steps()
    world.slots.release(first)
    await steps()
    assert world.order == ["two", "one", "three"]
    assert [await task is world.places[place] for task, place in zip(world.tasks, (0, 1, 0), strict=True)]


async def test_request_takes_another_place_when_it_has_waited_longer_than_moving_costs() -> None:
    world = World()
    first, second = world.places
    assert world.slots.try_acquire(first)
    waiter = await world.want("one", 0, moving_s=0.02)
    assert not waiter.done()
    world.now = 0.03
    assert await waiter is second


async def test_time_that_a_request_waited_elsewhere_does_not_make_it_move() -> None:
    world = World()
    assert world.slots.try_acquire(world.places[0])
    wish = Wish(world.places[0], 5.0, waited_s=50.0)
    waiter = asyncio.create_task(world.slots.acquire("a", "default", 10, wish))
    await steps()
    world.now = 4.9
    world.slots.grant()
    assert not waiter.done()
    world.now = 5.0
    world.slots.grant()
    assert await waiter is world.places[1]


async def test_request_that_loses_nothing_by_moving_waits_for_no_place() -> None:
    world = World()
    assert world.slots.try_acquire(world.places[0])
    assert await (await world.want("one", 0, moving_s=0.0)) is world.places[1]


async def test_request_moves_when_its_place_is_no_longer_ready() -> None:
    world = World()
    assert world.slots.try_acquire(world.places[0])
    waiter = await world.want("one", 0)
    world.places[0].engine.state = "draining"
    world.slots.grant()
    assert await waiter is world.places[1]


async def test_request_never_moves_to_an_engine_that_did_not_answer_it() -> None:
    world = World()
    assert world.slots.try_acquire(world.places[0])
    waiter = await world.want("one", 0, moving_s=0.0, without=(1,))
    assert not waiter.done()
    world.slots.release(world.places[0])
    assert await waiter is world.places[0]


async def test_keys_take_turns_over_all_places() -> None:
    world = World()
    for place in world.places:
        assert world.slots.try_acquire(place)
    for number in range(4):
        await world.want(f"greedy {number}", number % 2, key="greedy", moving_s=0.0)
    await world.want("modest", 0, key="modest", moving_s=0.0)
    for _ in range(2):
        world.slots.release(world.places[0])
        await steps()
    assert world.order == ["greedy 0", "modest"]
    for task in world.tasks:
        task.cancel()


async def test_other_gateways_requests_leave_fewer_slots() -> None:
    world = World(1, capacity=8)
    (place,) = world.places
    assert world.slots.free(place) == 8
    for _ in range(2):
        assert world.slots.try_acquire(place)
    place.heard(RankLoad(num_running_reqs=5, num_waiting_reqs=1))  # two of ours, four of others
    assert world.slots.free(place) == 2
    place.heard(RankLoad(num_running_reqs=8))
    assert world.slots.free(place) == 0
    world.slots.release(place)
    assert world.slots.free(place) == 1  # those we had stay ours
    world.slots.release(place)
    place.heard(RankLoad(num_running_reqs=20))
    assert world.slots.free(place) == 1  # one is always ours


async def test_gateways_that_filled_a_place_at_once_give_back_their_part_of_what_is_too_much() -> None:
    """As after a moment without requests, when each was told that all slots are free."""
    gateways = [World(1, capacity=18) for _ in range(3)]
    for gateway in gateways:
        while gateway.slots.try_acquire(gateway.places[0]):
            pass
    sent = [gateway.places[0].in_flight for gateway in gateways]
    assert sent == [18, 18, 18]
    for _ in range(2):
        for gateway in gateways:
            gateway.places[0].heard(RankLoad(num_running_reqs=16, num_waiting_reqs=sum(sent) - 16))
        for gateway in gateways:
            for _ in range(12):
                gateway.slots.release(gateway.places[0])
            while gateway.slots.try_acquire(gateway.places[0]):
                pass
        sent = [gateway.places[0].in_flight for gateway in gateways]
        assert sent == [6, 6, 6]


async def test_gateway_that_knows_of_the_others_always_has_its_part() -> None:
    world = World(1, capacity=18, sharers=3)
    (place,) = world.places
    place.heard(RankLoad(num_running_reqs=16, num_waiting_reqs=2))
    assert world.slots.free(place) == 6


async def test_requests_that_the_engine_has_not_counted_take_slots() -> None:
    world = World(1, capacity=3)
    (place,) = world.places
    for _ in range(2):
        assert world.slots.try_acquire(place)
    place.heard(RankLoad(num_running_reqs=0))
    assert world.slots.free(place) == 1


@pytest.mark.parametrize(("sharers", "free"), [(1, 8), (2, 4), (3, 3), (16, 1)])
async def test_workers_divide_what_is_free(sharers: int, free: int) -> None:
    world = World(1, capacity=8, sharers=sharers)
    assert world.slots.free(world.places[0]) == free


async def test_report_of_free_slots_grants_them() -> None:
    world = World(1, capacity=2)
    (place,) = world.places
    assert world.slots.try_acquire(place)
    place.heard(RankLoad(num_running_reqs=2))
    waiter = await world.want("one", 0)
    assert not waiter.done()
    place.heard(RankLoad(num_running_reqs=1))
    world.slots.grant()
    assert await waiter is place


async def test_full_queue_and_stop_refuse() -> None:
    world = World(1, limit=1)
    (place,) = world.places
    assert world.slots.try_acquire(place)
    waiter = await world.want("one", 0)
    with pytest.raises(EngineOverloadedError):
        await world.slots.acquire("a", "default", 10, Wish(place, NEVER))
    assert not await world.slots.stop(grace_s=0.01)
    with pytest.raises(ShuttingDownError):
        await waiter
    with pytest.raises(ShuttingDownError):
        world.slots.try_acquire(place)
    world.slots.release(place)
    assert await world.slots.stop(grace_s=0.01)


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["want", "release", "cancel", "report"]), st.integers(0, 2), st.integers(0, 5)),
    max_size=40,
)


@given(STEPS)
@settings(deadline=None, max_examples=60)
def test_no_slot_is_lost_or_granted_twice(plan: list[Step]) -> None:
    """Ready places never idle while a request waits that loses nothing by going there."""

    async def run() -> None:
        world = World(3, capacity=2)
        held: list[Place] = []
        for action, place, number in plan:
            if action == "want":
                await world.want("one", place, moving_s=0.0)
            elif action == "release" and held:
                world.slots.release(held.pop(number % len(held)))
            elif action == "cancel" and world.tasks:
                world.tasks[number % len(world.tasks)].cancel()
            elif action == "report":
                world.places[place].heard(RankLoad(num_running_reqs=world.places[place].in_flight))
                world.slots.grant()
            await steps()
            done = [task for task in world.tasks if task.done()]
            held += [task.result() for task in done if not task.cancelled()]
            world.tasks = [task for task in world.tasks if not task.done()]
            assert world.slots.in_use == len(held)
            assert [one.in_flight for one in world.places] == [held.count(one) for one in world.places]
            assert not world.slots.waiting or all(world.slots.free(one) <= 0 for one in world.places)
        for task in world.tasks:
            task.cancel()
        await steps()

    asyncio.run(run())


@pytest.mark.parametrize("alone", [False, True])
async def test_canary_takes_no_request_of_another_place_unless_it_is_alone(alone: bool) -> None:
    world = World(places=3)
    canary, wanted, other = world.places
    canary.view.weight = 0.05
    for place in (wanted, other):
        assert world.slots.try_acquire(place)
    await world.want("one", 1, moving_s=0.0)
    await steps()
    assert world.order == []
    # It is ejected, and the request may go elsewhere.
    wanted.engine.state = "unknown"
    if alone:
        other.engine.state = "unknown"
    world.slots.grant()
    await steps()
    assert world.order == (["one"] if alone else [])
    if not alone:
        world.slots.release(other)
        await steps()
        assert await world.tasks[0] is other
