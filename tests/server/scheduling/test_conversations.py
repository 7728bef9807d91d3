"""The gate before the slots: conversations that wait whole, leave, give up, and are refused honestly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serval.chat.prompt_parts import PromptParts
from serval.engine.placement import keys_of, placed_prompt
from serval.engine.protocol import GenerateRequest
from serval.errors import EngineOverloadedError, ShuttingDownError
from serval.scheduling.conversations import ConversationGate, turn_of
from serval.scheduling.seats import PlaceLimit, Turn
from serval.scheduling.slots import Slots
from serval.scheduling.think_time import FIRST_LIMIT_S
from serval.telemetry.record import RequestRecord
from serval_testkit.fleet import eventually

BOUND_S = 60.0


def request_of(name: str, tokens: int = 400, **fields: Any) -> GenerateRequest:
    return GenerateRequest(request_id=name, input_ids=[1] * tokens, sampling={}, tenant="a", **fields)


def turn(name: str, tokens: int, *, continues: bool = True) -> Turn:
    return Turn(name.split(maxsplit=1)[0], name.encode(), b"", 0, tokens, continues, tail=tokens)


class Observer:
    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.waits: list[float] = []
        self.left: list[str] = []

    def conversations_waiting(self, number: int) -> None:
        self.waiting.append(number)

    def conversation_admitted(self, waited_s: float) -> None:
        self.waits.append(waited_s)

    def conversation_left(self, reason: str) -> None:
        self.left.append(reason)


class World:
    """A gate with room for 1000 tokens at one place, before slots, and a clock."""

    def __init__(self, *, limit: int = 100, timeout_s: float = BOUND_S) -> None:
        self.now = 0.0
        self.limits = {"p": PlaceLimit(1000.0)}
        self.observer = Observer()
        self.slots = Slots(10, queue_limit=10, timeout_s=timeout_s)
        self.gate = ConversationGate(
            self.slots,
            lambda: self.limits,
            queue_limit=limit,
            timeout_s=timeout_s,
            observer=self.observer,
            now=lambda: self.now,
        )
        self.running: dict[str, asyncio.Event] = {}

    async def run(self, name: str, tokens: int = 400) -> float:
        """Run a turn until `end`; return the seconds that it waited."""
        request = request_of(name, tokens)
        record = RequestRecord(request_id=name, method="POST", route="/")
        async with self.gate.admitted(turn(name, tokens), "p", request, record) as admitted:
            done = self.running[name] = asyncio.Event()
            try:
                await done.wait()
            finally:
                del self.running[name]
        return admitted.waited_s

    async def begin(self, name: str, tokens: int = 400) -> "asyncio.Task[float]":
        task = asyncio.create_task(self.run(name, tokens))
        await steps()
        return task

    async def end(self, name: str) -> None:
        self.running[name].set()
        await steps()

    async def look(self) -> None:
        """Let the gate look again, as it does by its timer."""
        self.gate._look()
        await steps()


async def steps() -> None:
    """Run every task that is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def full(**options: Any) -> AsyncIterator[tuple[World, "asyncio.Task[float]"]]:
    """Yield a world in which two conversations run and a third one waits."""
    world = World(**options)
    tasks = [await world.begin(name) for name in "abc"]
    assert set(world.running) == {"a", "b"}
    yield world, tasks[2]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_conversation_waits_until_another_is_silent() -> None:
    async with full() as (world, waiting):
        await world.end("a")
        world.now = FIRST_LIMIT_S - 1
        await world.look()
        assert "c" not in world.running
        world.now = FIRST_LIMIT_S
        await world.look()
        await world.end("c")
        assert await waiting == FIRST_LIMIT_S
        assert world.observer.waits == [0.0, 0.0, FIRST_LIMIT_S]
        assert world.observer.left == ["silent"]
        assert world.observer.waiting[-1] == 0


async def test_next_turn_of_a_conversation_in_the_set_does_not_wait_behind_others() -> None:
    async with full() as (world, waiting):
        others = [await world.begin(f"other {number}") for number in range(20)]
        await world.end("a")
        again = await world.begin("a", 420)
        assert "a" in world.running
        assert not waiting.done()
        for task in (again, *others):
            task.cancel()
        await asyncio.gather(again, *others, return_exceptions=True)


async def test_late_request_that_gives_up_no_longer_keeps_room_from_others() -> None:
    async with full() as (world, waiting):
        world.now = 0.5 * BOUND_S
        await world.look()
        small = await world.begin("small", 100)
        assert "small" not in world.running
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await world.look()
        assert "small" in world.running
        small.cancel()
        await asyncio.gather(small, return_exceptions=True)


async def test_gate_looks_again_by_itself() -> None:
    async with full() as (world, _):
        await world.end("a")
        world.now = FIRST_LIMIT_S
        await eventually(lambda: "c" in world.running)


async def test_request_that_leaves_while_it_waits_leaves_no_trace() -> None:
    async with full() as (world, waiting):
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert world.gate.waiting == 0
        assert world.gate.set.known == 2
        assert world.observer.waiting[-1] == 0
        for name in "ab":
            await world.end(name)
        assert world.gate.in_use == 0


async def test_request_cancelled_in_the_moment_it_is_admitted_gives_its_room_back() -> None:
    async with full() as (world, waiting):
        await world.end("a")
        world.now = FIRST_LIMIT_S
        waiting.cancel()
        world.gate._look()
        await steps()
        assert "c" not in world.running
        assert world.gate.in_use == 1
        assert sum(seat.running for seat in world.gate.set.places["p"].seats) == 1


async def test_nobody_waits_beyond_the_bound_and_the_refusal_tells_when_to_try_again() -> None:
    async with full(timeout_s=0.02) as (_, waiting):
        with pytest.raises(EngineOverloadedError, match="room for its conversation") as refused:
            await waiting
    assert (refused.value.status, refused.value.code) == (503, "queue_timeout")
    assert refused.value.retry_after_s == 1


async def test_refusal_tells_the_time_that_the_queue_has_taken() -> None:
    world = World(limit=3)
    begun = [await world.begin(name) for name in "abcde"]
    for name in "abc":
        await world.end(name)
        world.now += FIRST_LIMIT_S
        await world.look()
    late = [await world.begin(name) for name in "xyz"]
    estimate = world.gate.set.estimate_s(3)
    assert estimate > FIRST_LIMIT_S / 2
    refused = await world.begin("w")
    with pytest.raises(EngineOverloadedError) as caught:
        await refused
    assert caught.value.retry_after_s == pytest.approx(estimate, abs=1)
    for task in begun + late:
        task.cancel()
    await asyncio.gather(*begun, *late, return_exceptions=True)


async def test_time_at_the_gate_counts_for_the_slots() -> None:
    slots = Slots(1, queue_limit=10, timeout_s=60.0)
    assert slots.try_acquire()
    with pytest.raises(EngineOverloadedError):
        await slots.acquire("a", "default", 1, waited_s=60.0)


async def test_stop_serves_those_that_wait_and_refuses_others() -> None:
    async with full() as (world, waiting):
        stopping = asyncio.create_task(world.gate.stop(grace_s=60))
        await steps()
        with pytest.raises(ShuttingDownError):
            await (await world.begin("d"))
        for name in "ab":
            await world.end(name)
        world.now = FIRST_LIMIT_S
        await world.look()
        assert not stopping.done()
        await world.end("c")
        assert await stopping
        assert waiting.done()


async def test_stop_refuses_those_that_wait_when_the_grace_is_over() -> None:
    async with full() as (world, waiting):
        assert not await world.gate.stop(grace_s=0)
        with pytest.raises(ShuttingDownError):
            await waiting
        assert world.slots.stopping


async def test_conversations_of_an_engine_that_is_gone_are_admitted_elsewhere() -> None:
    async with full() as (world, _):
        world.limits = {"q": PlaceLimit(1000.0)}
        await world.look()
        assert "c" in world.running
        assert world.observer.left == ["gone", "gone"]


# ---- requests as turns


def test_turns_of_one_conversation_have_the_same_name_with_one_engine_and_with_several() -> None:
    ids = list(range(3000))
    parts = PromptParts(shared=100, first_turn=200, earlier=0)
    later = PromptParts(shared=100, first_turn=200, earlier=900)
    first = keys_of(ids[:1000], owner="a", parts=parts)
    assert first.conversation == keys_of(ids, owner="a", parts=later).conversation
    assert first.conversation != keys_of(ids, owner="b", parts=later).conversation
    placed = placed_prompt(ids, owner="a", parts=later)
    request = request_of("x")
    assert turn_of(request, placed) == turn_of(request, keys_of(ids, owner="a", parts=later))


def test_prompt_of_unknown_structure_is_known_by_its_beginning() -> None:
    ids = list(range(3000))
    assert keys_of(ids, owner="a", parts=None) == keys_of(ids[:2000], owner="a", parts=None)
    assert keys_of([], owner="a", parts=None).shared == 0


def test_turn_counts_prompt_and_usual_answer() -> None:
    keys = keys_of([1], owner="a", parts=None)
    request = request_of("x", 100)
    assert turn_of(request, keys).tokens == 100 + 512
    short = GenerateRequest(request_id="x", input_ids=[1] * 100, sampling={"max_new_tokens": 5})
    assert turn_of(short, keys).tokens == 105
    assert turn_of(request_of("x", priority="interactive"), keys).interactive
