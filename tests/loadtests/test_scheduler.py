"""Scheduler and prefix cache of the modelled engine, in model time."""

from dataclasses import replace

import pytest

from serval_load.stand_in.costs import ROUND
from serval_load.stand_in.prefix_cache import PrefixCache
from serval_load.stand_in.scheduler import Job, Scheduler

COSTS = replace(ROUND, kv_tokens=1000, block_tokens=10, chunk_tokens=100, max_running=4)


def prompt(length: int, start: int = 0) -> range:
    return range(start, start + length)


def run(scheduler: Scheduler) -> None:
    while scheduler.step() is not None:
        pass


def test_step_costs_a_base_and_a_share_for_each_request() -> None:
    scheduler = Scheduler(COSTS)
    for number in range(3):
        scheduler.add(Job(str(number), prompt(10, number * 1000), tokens=2))
    first, second = scheduler.step(), scheduler.step()
    assert first is not None
    assert second is not None
    assert first.seconds == COSTS.prefill_s(30)
    assert second.seconds == COSTS.decode_s(3)
    assert len(second.advanced) == 3
    assert scheduler.step() is None
    assert scheduler.clock == first.seconds + second.seconds


def test_long_prompt_takes_several_steps_and_gets_a_token_in_the_last() -> None:
    scheduler = Scheduler(COSTS)
    scheduler.add(Job("long", prompt(250), tokens=1))
    steps = [scheduler.step() for _ in range(3)]
    assert [len(step.advanced) for step in steps if step] == [0, 0, 1]
    assert scheduler.clock == 2 * COSTS.prefill_s(100) + COSTS.prefill_s(50)


def test_prefix_is_reused_in_whole_blocks() -> None:
    scheduler = Scheduler(COSTS)
    scheduler.add(Job("first", prompt(35), tokens=1))
    run(scheduler)
    before = scheduler.clock
    again = Job("again", prompt(45), tokens=1)
    scheduler.add(again)
    run(scheduler)
    assert again.cached == 30
    assert scheduler.clock - before == COSTS.prefill_s(15)


@pytest.mark.parametrize(("length", "cached"), [(20, 10), (21, 20)])
def test_last_token_of_a_prompt_is_never_cached(length: int, cached: int) -> None:
    scheduler = Scheduler(replace(COSTS, block_tokens=10))
    first, again = Job("a", prompt(length), tokens=1), Job("b", prompt(length), tokens=1)
    for job in (first, again):
        assert scheduler.add(job)
        run(scheduler)
    assert again.cached == cached


def test_prefixes_are_shared_within_a_salt_only() -> None:
    scheduler = Scheduler(replace(COSTS, block_tokens=10))
    jobs = [Job(salt, prompt(35), tokens=1, salt=salt) for salt in ("one", "other", "one")]
    for job in jobs:
        assert scheduler.add(job)
        run(scheduler)
    assert [job.cached for job in jobs] == [0, 0, 30]


def test_prefix_cache_evicts_the_oldest_prefix_first() -> None:
    cache = PrefixCache(block_tokens=10)
    old, new = cache.chain(prompt(30)), cache.chain(prompt(30, 500))
    cache.insert(old[:2])
    cache.insert(new[:2])
    cache.evict(20)
    assert cache.match(old) == 0
    assert cache.match(new) == 20


def test_requests_beyond_the_largest_batch_wait() -> None:
    scheduler = Scheduler(COSTS)
    for number in range(6):
        scheduler.add(Job(str(number), prompt(10, number * 1000), tokens=3))
    scheduler.step()
    assert (len(scheduler.running), scheduler.waiting_count) == (4, 2)
    run(scheduler)
    assert (len(scheduler.running), scheduler.waiting_count, scheduler.used_tokens) == (0, 0, 0)


def test_newest_request_is_retracted_without_memory_and_both_finish() -> None:
    scheduler = Scheduler(replace(COSTS, kv_tokens=220, chunk_tokens=400))
    jobs = [Job(str(number), prompt(100, number * 1000), tokens=50) for number in range(2)]
    for job in jobs:
        scheduler.add(job)
    run(scheduler)
    assert [job.generated for job in jobs] == [50, 50]
    assert [job.retractions for job in jobs] == [0, 1]
    assert scheduler.used_tokens == 0


def test_request_larger_than_the_memory_fails() -> None:
    scheduler = Scheduler(COSTS)
    big, grows = Job("big", prompt(1000), tokens=5), Job("grows", prompt(990), tokens=50)
    scheduler.add(big)
    step = scheduler.step()
    assert step is not None
    assert step.failed == (big,)
    scheduler.add(grows)
    failed = []
    while (step := scheduler.step()) is not None:
        failed += step.failed
    assert failed == [grows]
    assert scheduler.used_tokens == 0


def test_full_queue_refuses_a_request() -> None:
    scheduler = Scheduler(replace(COSTS, max_waiting=1))
    assert scheduler.add(Job("one", prompt(1), tokens=1))
    assert not scheduler.add(Job("two", prompt(1), tokens=1))


def test_remove_frees_running_partial_and_waiting_requests() -> None:
    scheduler = Scheduler(replace(COSTS, max_running=1))
    running, partial, waiting = (Job(name, prompt(250, i * 1000), tokens=9) for i, name in enumerate("abc"))
    scheduler.add(running)
    for _ in range(3):
        scheduler.step()
    scheduler.add(partial)
    scheduler.add(waiting)
    scheduler.remove(running)
    scheduler.step()
    assert scheduler.used_tokens == 100
    scheduler.remove(partial)
    scheduler.remove(waiting)
    assert (scheduler.used_tokens, scheduler.waiting_count, scheduler.step()) == (0, 0, None)


def test_prompt_of_a_running_request_is_in_memory_once() -> None:
    """SGLang's running requests hold blocks of the prefix cache; beside them an idle prompt keeps its own."""
    scheduler = Scheduler(COSTS)
    scheduler.add(Job("idle", prompt(440), tokens=1))
    run(scheduler)
    scheduler.add(Job("running", prompt(440, 1000), tokens=20))
    run(scheduler)
    again = Job("again", prompt(450), tokens=1)
    scheduler.add(again)
    run(scheduler)
    assert again.cached == 440
