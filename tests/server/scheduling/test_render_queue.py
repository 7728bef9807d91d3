"""Threads for long requests: fair to keys, bounded, and given up by clients that leave."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from serval.errors import EngineOverloadedError
from serval.scheduling.render_queue import VERY_LONG_BYTES, RenderQueue

LONG, VERY_LONG = 20_000, VERY_LONG_BYTES + 1


class Work:
    """Work that goes on until it is told to end, and notes the order in which it began."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._begins: dict[str, threading.Event] = {}
        self._ends: dict[str, threading.Event] = {}

    def of(self, name: str) -> Callable[[], str]:
        self._begins[name], self._ends[name] = threading.Event(), threading.Event()

        def work() -> str:
            self.begun.append(name)
            self._begins[name].set()
            assert self._ends[name].wait(30)
            return name

        return work

    def end(self, *names: str) -> None:
        for name in names or tuple(self._ends):
            self._ends[name].set()

    async def has_begun(self, *names: str) -> None:
        for name in names:
            assert await asyncio.to_thread(self._begins[name].wait, 30)


@pytest_asyncio.fixture
async def work() -> AsyncIterator[Work]:
    made = Work()
    yield made
    made.end()


def queue_of(threads: int, *, limit: int = 100, timeout_s: float = 60.0) -> RenderQueue:
    return RenderQueue(threads, inline_bytes=1000, queue_limit=limit, timeout_s=timeout_s)


async def started(
    queue: RenderQueue, work: Work, key: str, name: str, size: int = LONG
) -> "asyncio.Task[str]":
    task = asyncio.create_task(queue.run(key, size, work.of(name)))
    await asyncio.sleep(0)
    return task


async def test_render_queue_returns_results_and_raises_errors() -> None:
    queue = queue_of(1)
    assert (queue.is_long(1000), queue.is_long(1001)) == (False, True)
    assert await queue.run("a", LONG, lambda: "done") == "done"
    with pytest.raises(ZeroDivisionError):
        await queue.run("a", LONG, lambda: str(1 // 0))
    # The thread is free again.
    assert await queue.run("a", LONG, threading.get_ident) != threading.get_ident()
    queue.close()


async def test_render_queue_takes_turns_between_keys(work: Work) -> None:
    queue = queue_of(1)
    tasks = [await started(queue, work, "many", f"many {number}") for number in range(5)]
    tasks += [await started(queue, work, "few", "few")]
    work.end()
    await asyncio.gather(*tasks)
    assert work.begun.index("few") <= 2
    queue.close()


async def test_render_queue_counts_bytes_and_not_requests(work: Work) -> None:
    queue = queue_of(1)
    tasks = [await started(queue, work, "x", "first")]
    tasks += [await started(queue, work, "large", f"large {number}", size=200_000) for number in range(2)]
    tasks += [await started(queue, work, "small", f"small {number}") for number in range(4)]
    work.end()
    await asyncio.gather(*tasks)
    assert work.begun[-1] == "large 1"
    queue.close()


async def test_render_queue_leaves_a_thread_free_of_very_long_requests(work: Work) -> None:
    """Three requests of megabytes, of different keys, once kept a prompt of 20 KB waiting for a minute."""
    queue = queue_of(2)
    very_long = [
        await started(queue, work, f"key {number}", f"very long {number}", size=VERY_LONG)
        for number in range(3)
    ]
    ordinary = await started(queue, work, "other", "ordinary")
    await work.has_begun("very long 0", "ordinary")
    assert len(work.begun) == 2
    work.end("ordinary")
    assert await ordinary == "ordinary"
    work.end()
    await asyncio.gather(*very_long)
    queue.close()


async def test_render_queue_with_one_thread_works_on_very_long_requests(work: Work) -> None:
    queue = queue_of(1)
    assert await queue.run("a", VERY_LONG, lambda: "done") == "done"
    queue.close()


async def test_render_queue_frees_the_place_of_a_client_that_leaves(work: Work) -> None:
    """Tried: one that waits for a thread, one that waits as very long, and one whose work has begun."""
    queue = queue_of(2, limit=1)
    running = await started(queue, work, "a", "running", size=VERY_LONG)
    await work.has_begun("running")
    for size, name in ((VERY_LONG, "very long"), (LONG, "long")):
        if size == LONG:
            other = await started(queue, work, "b", "other")
            await work.has_begun("other")
        waiting = await started(queue, work, "c", name, size=size)
        with pytest.raises(EngineOverloadedError):
            await queue.run("d", size, lambda: "refused")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        again = await started(queue, work, "d", f"{name} again", size=size)
        again.cancel()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # Its thread is taken until the work has ended.
    next_one = await started(queue, work, "e", "next")
    assert not next_one.done()
    work.end("running")
    await work.has_begun("next")
    work.end()
    await asyncio.gather(other, next_one)
    assert work.begun == ["running", "other", "next"]
    queue.close()


async def test_render_queue_that_is_full_says_when_to_try_again(work: Work) -> None:
    queue = queue_of(1, limit=2)
    tasks = [await started(queue, work, "a", str(number), size=2_000_000) for number in range(2)]
    tasks += [await started(queue, work, "a", "2", size=2_000_000)]
    with pytest.raises(EngineOverloadedError) as caught:
        await queue.run("a", 4_000_000, lambda: "refused")
    # Two requests of 2 MB wait, and one of 4 MB would; the speed that is assumed is 0.5 MB/s.
    assert (caught.value.status, caught.value.retry_after_s) == (503, 16)
    work.end()
    await asyncio.gather(*tasks)
    queue.close()


async def test_render_queue_drops_the_newest_request_of_the_key_with_most(work: Work) -> None:
    queue = queue_of(1, limit=2)
    tasks = [await started(queue, work, "a", f"a{number}") for number in range(3)]
    victim = tasks.pop()
    tasks += [await started(queue, work, "b", "b")]
    with pytest.raises(EngineOverloadedError, match="Too many requests wait for a thread"):
        await victim
    work.end()
    await asyncio.gather(*tasks)
    queue.close()


async def test_render_queue_refuses_what_has_waited_too_long(work: Work) -> None:
    queue = queue_of(1, timeout_s=0.001)
    running = await started(queue, work, "a", "running")
    with pytest.raises(EngineOverloadedError) as caught:
        await queue.run("b", LONG, lambda: "late")
    assert caught.value.code == "queue_timeout"
    work.end()
    await running
    queue.close()


async def test_render_queue_lets_the_loop_in_more_often_only_while_it_works() -> None:
    usual = sys.getswitchinterval()
    queue = RenderQueue(1, inline_bytes=10, queue_limit=4, timeout_s=60)

    def work() -> float:
        time.sleep(0.05)  # the loop may set it after the thread has begun
        return sys.getswitchinterval()

    assert await queue.run("key", 100, work) < usual
    async with asyncio.timeout(60):
        while sys.getswitchinterval() != usual:  # noqa: ASYNC110  # a setting of the process has no event
            await asyncio.sleep(0.01)
    queue.close()
