"""The simulated engine: steps, chunks, memory and cache, with costs that are easy to add up."""

from collections.abc import Callable
from typing import Any

import pytest

from serval_sglang.plan.clock import Clock
from serval_sglang.plan.simulated_engine import EngineSizes, Job, SimulatedEngine
from serval_sglang.plan.step_costs import MeasuredCosts

COSTS = MeasuredCosts(decode_base_s=1.0, decode_request_s=0.1, prefill_base_s=10.0, prefill_token_s=0.01)


def engine(**sizes: Any) -> SimulatedEngine:
    given = {"kv_tokens": 10_000, "chunk_tokens": 100, "max_running": 4, **sizes}
    return SimulatedEngine(Clock(), COSTS, EngineSizes(**given))


def add(
    to: SimulatedEngine,
    prompt: int,
    output: int = 1,
    *,
    at: float = 0.0,
    session: object = None,
    on_end: Callable[[Job], None] = lambda job: None,
    **given: Any,
) -> Job:
    job = Job(session or object(), prompt, output, at, on_end, **given)
    to.clock.after(at - to.clock.now, lambda: to.add(job))
    return job


def test_long_prompt_takes_several_steps_and_then_decodes() -> None:
    one = engine()
    job = add(one, 250, output=5)
    one.clock.run()
    assert job.first_at == pytest.approx(3 * 10 + 2.5)
    assert job.ended_at == pytest.approx(job.first_at + 4 * 1.1)
    assert one.busy_s == pytest.approx(job.ended_at)


def test_prompts_that_arrive_together_share_a_step() -> None:
    one = engine()
    jobs = [add(one, 40, output=3) for _ in range(2)]
    one.clock.run()
    assert [job.first_at for job in jobs] == [pytest.approx(10.8)] * 2
    assert [job.ended_at for job in jobs] == [pytest.approx(10.8 + 2 * 1.2)] * 2
    assert one.most_running == 2


def test_arrival_waits_for_the_end_of_a_step_and_holds_up_decoding() -> None:
    one = engine()
    first = add(one, 100, output=10)
    second = add(one, 100, at=11.0 + 1.5)
    one.clock.run()
    # The first prompt takes 11 s, decode steps 1.1 s: the second arrives in the second of them.
    assert second.first_at == pytest.approx(11 + 2.2 + 11)
    assert first.ended_at == pytest.approx(11 + 9 * 1.1 + 11)


def test_slots_and_memory_make_requests_wait() -> None:
    one = engine(max_running=1)
    first, second = add(one, 100, output=5), add(one, 100)
    one.clock.run()
    assert second.first_at == pytest.approx(first.ended_at + 11)
    one = engine(kv_tokens=150)
    first, second, never = add(one, 100, output=5), add(one, 100), add(one, 150)
    one.clock.run()
    assert second.first_at == pytest.approx(first.ended_at + 11)
    assert never.failed
    assert never.first_at < 0


def test_newest_request_is_computed_again_when_memory_runs_out() -> None:
    one = engine(kv_tokens=220)
    first, second = add(one, 50, output=100), add(one, 50, output=100)
    one.clock.run()
    assert not first.failed
    assert second.ended_at > first.ended_at + 11
    assert second.first_at == first.first_at
    # Before those that wait.
    one = engine(kv_tokens=220)
    ends: list[object] = []
    for name, prompt, at in (("first", 50, 0.0), ("second", 50, 0.0), ("late", 60, 12.0)):
        add(one, prompt, output=100, at=at, session=name, on_end=lambda job: ends.append(job.session))
    one.clock.run()
    assert ends == ["first", "second", "late"]
    # Alone, and still too long for the memory.
    one = engine(kv_tokens=60)
    alone = add(one, 50, output=100)
    one.clock.run()
    assert alone.failed


def test_session_finds_its_last_turn_and_shared_parts() -> None:
    one = engine(block_tokens=10)
    add(one, 100, output=25, session="a", prefix=(1, 2), piece_tokens=30.0)
    again = add(one, 155, at=1000, session="a", prefix=(1, 2), piece_tokens=30.0)
    other = add(one, 100, at=2000, session="b", prefix=(1, 3), piece_tokens=30.0)
    twice = add(one, 100, at=3000, session="c", prefix=(1, 2), piece_tokens=30.0)
    logged = add(one, 100, at=4000, logged=77)
    one.clock.run()
    # Prompt and answer, in whole blocks.
    assert [job.cached for job in (again, other, twice, logged)] == [120, 30, 60, 70]


def test_answers_are_not_found_where_the_engine_cannot() -> None:
    one = engine(answers_cached=False)
    add(one, 100, output=25, session="a")
    again = add(one, 155, at=1000, session="a")
    one.clock.run()
    assert again.cached == 100


def test_running_request_keeps_its_session_and_shared_parts() -> None:
    one = engine(kv_tokens=300)
    long = add(one, 100, output=150, session="a", prefix=(1, 2), piece_tokens=30.0)
    # More than there is room for beside it, one after the other.
    for number in range(4):
        add(one, 60, at=12.0 + 15 * number, session=number)
    other = add(one, 80, at=80.0, session="b", prefix=(1, 2), piece_tokens=30.0)
    again = add(one, 260, at=1000.0, session="a", prefix=(1, 2), piece_tokens=30.0)
    one.clock.run()
    assert other.first_at < long.ended_at
    assert other.cached == 60
    assert again.cached == 250


def test_memory_of_a_running_request_is_not_what_eviction_frees() -> None:
    one = engine(kv_tokens=300)
    add(one, 100, output=150, session="runs")
    add(one, 100, at=12.0, session="idle")
    add(one, 100, at=30.0, session="new")
    again = add(one, 110, at=60.0, session="idle")
    one.clock.run()
    # The running request is the older, but its memory is in use: the idle session makes room for the new one.
    assert 0 < again.cached < 80


def test_cache_loses_the_tail_of_the_session_unused_for_longest() -> None:
    one = engine(kv_tokens=300)
    add(one, 100, session="a")
    add(one, 100, at=1000, session="b")
    add(one, 150, at=2000, session="c")
    a, b = add(one, 110, at=3000, session="a"), add(one, 110, at=4000, session="b")
    one.clock.run()
    # 101 + 101 + 151 tokens were kept, 53 too many: the first session lost as many.
    assert a.cached == pytest.approx(48, abs=2)
    assert b.cached < 101
