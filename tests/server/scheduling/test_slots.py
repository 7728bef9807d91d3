"""Slots of the engine: acquired, waited for, released, and never lost."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serval.caller.priority import PRIORITIES, Priority
from serval.errors import EngineOverloadedError, ShuttingDownError
from serval.scheduling.slots import Slots


class Meter:
    """Counts waiting requests."""

    def __init__(self) -> None:
        self.depth = 0

    def queue_entered(self, priority: Priority) -> None:
        self.depth += 1

    def queue_left(self, priority: Priority) -> None:
        self.depth -= 1


def slots_of(number: int, *, limit: int = 10, timeout_s: float = 60.0) -> Slots:
    return Slots(number, queue_limit=limit, timeout_s=timeout_s, meter=Meter())


async def take(slots: Slots, key: str = "a", priority: Priority = "default") -> None:
    if not slots.try_acquire():
        await slots.acquire(key, priority, 10)


async def steps() -> None:
    """Run every task that is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_slots_are_acquired_at_once_while_free() -> None:
    slots = slots_of(1)
    assert slots.try_acquire()
    assert not slots.try_acquire()
    waiter = asyncio.create_task(take(slots))
    await steps()
    assert not waiter.done()
    slots.release()
    await waiter
    assert (slots.in_use, slots.waiting) == (1, 0)


async def test_slots_cannot_be_acquired_past_waiting_requests() -> None:
    slots = slots_of(1)
    slots.try_acquire()
    waiter = asyncio.create_task(take(slots))
    await steps()
    slots.release()
    # It has not run yet, but owns the slot.
    assert not slots.try_acquire()
    await waiter


async def test_acquire_raises_503_with_retry_after_on_timeout() -> None:
    slots = slots_of(1, timeout_s=0.01)
    slots.try_acquire()
    with pytest.raises(EngineOverloadedError) as refused:
        await take(slots)
    assert (refused.value.status, refused.value.code) == (503, "queue_timeout")
    assert refused.value.headers["retry-after"]
    assert (slots.in_use, slots.waiting) == (1, 0)


async def test_acquire_refuses_the_newest_of_the_key_with_most_if_full() -> None:
    slots = slots_of(1, limit=2)
    slots.try_acquire()
    greedy = [asyncio.create_task(take(slots, "greedy")) for _ in range(2)]
    await steps()
    with pytest.raises(EngineOverloadedError) as refused:
        await take(slots, "greedy")
    assert refused.value.code == "server_is_overloaded"
    other = asyncio.create_task(take(slots, "other"))
    await steps()
    assert isinstance(greedy[1].exception(), EngineOverloadedError)
    assert not other.done()
    assert slots.waiting == 2
    for waiter in (greedy[0], other):
        slots.release()
        await waiter


async def test_slot_granted_to_a_cancelled_request_goes_to_the_next() -> None:
    slots = slots_of(1)
    slots.try_acquire()
    first, second = [asyncio.create_task(take(slots)) for _ in range(2)]
    await steps()
    slots.release()
    first.cancel()  # after the grant, before it has run
    await steps()
    assert second.done()
    assert (slots.in_use, slots.waiting) == (1, 0)


async def test_release_passes_over_a_cancelled_request() -> None:
    slots = slots_of(1)
    slots.try_acquire()
    first, second = [asyncio.create_task(take(slots)) for _ in range(2)]
    await steps()
    first.cancel()  # has not run yet, and so has not left
    slots.release()
    await steps()
    assert second.done()
    assert (slots.in_use, slots.waiting) == (1, 0)


async def test_stop_waits_for_running_and_waiting_requests() -> None:
    slots = slots_of(1)
    slots.try_acquire()
    waiter = asyncio.create_task(take(slots))
    await steps()
    stop = asyncio.create_task(slots.stop(grace_s=60))
    await steps()
    with pytest.raises(ShuttingDownError):
        slots.try_acquire()
    slots.release()
    await waiter
    assert not stop.done()
    slots.release()
    assert await stop


async def test_stop_refuses_waiting_requests_after_the_grace_period() -> None:
    slots = slots_of(1)
    slots.try_acquire()
    waiter = asyncio.create_task(take(slots))
    await steps()
    assert not await slots.stop(grace_s=0.01)
    with pytest.raises(ShuttingDownError):
        await waiter
    assert slots.waiting == 0


async def test_stop_returns_at_once_when_idle() -> None:
    assert await slots_of(1).stop(grace_s=60)


class NoSlotIsLost(RuleBasedStateMachine):
    """Requests arrive, leave, finish and time out in any order, also in one turn of the event loop."""

    SLOTS = 3

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.meter = Meter()
        self.slots = Slots(self.SLOTS, queue_limit=5, timeout_s=1e6, meter=self.meter)
        self.tasks: list[asyncio.Task[None]] = []
        self.ends: dict[asyncio.Task[None], asyncio.Event] = {}

    def run(self, do: Callable[[], Any]) -> None:
        self.loop.call_soon(do)
        self.loop.run_until_complete(asyncio.sleep(0))

    async def request(self, key: str, priority: Priority, end: asyncio.Event) -> None:
        await take(self.slots, key, priority)
        try:
            await end.wait()
        finally:
            self.slots.release()

    @rule(key=st.sampled_from("abc"), priority=st.sampled_from(PRIORITIES))
    def comes(self, key: str, priority: Priority) -> None:
        def start() -> None:
            end = asyncio.Event()
            task = self.loop.create_task(self.request(key, priority, end))
            self.ends[task] = end
            self.tasks.append(task)

        self.run(start)

    @precondition(lambda self: self.tasks)
    @rule(place=st.integers(0, 100))
    def finishes(self, place: int) -> None:
        self.run(self.ends[self.tasks[place % len(self.tasks)]].set)

    @precondition(lambda self: self.tasks)
    @rule(place=st.integers(0, 100))
    def leaves(self, place: int) -> None:
        self.run(self.tasks[place % len(self.tasks)].cancel)

    @precondition(lambda self: self.tasks)
    @rule(one=st.integers(0, 100), other=st.integers(0, 100))
    def finishes_and_leaves_at_once(self, one: int, other: int) -> None:
        def both() -> None:
            self.ends[self.tasks[one % len(self.tasks)]].set()
            self.tasks[other % len(self.tasks)].cancel()

        self.run(both)

    @invariant()
    def no_more_than_the_slots(self) -> None:
        assert 0 <= self.slots.in_use <= self.SLOTS

    @invariant()
    def nobody_waits_while_a_slot_is_free(self) -> None:
        self.loop.run_until_complete(steps())
        assert self.slots.in_use == self.SLOTS or self.slots.waiting == 0
        assert self.meter.depth == self.slots.waiting

    def teardown(self) -> None:
        for end in self.ends.values():
            end.set()
        self.loop.run_until_complete(asyncio.gather(*self.tasks, return_exceptions=True))
        assert (self.slots.in_use, self.slots.waiting, self.meter.depth) == (0, 0, 0)
        self.loop.close()


TestNoSlotIsLost = NoSlotIsLost.TestCase
TestNoSlotIsLost.settings = settings(max_examples=60, stateful_step_count=30)
