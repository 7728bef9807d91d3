"""Threads that decode, render and tokenise long requests, shared fairly between keys.

Long requests wait for a thread in a fair queue, by bytes: a key's many requests do not hold up those of
others. Very long ones wait for each other first, and leave a thread free for the others. Short requests are
worked on at once. Everything but the work itself belongs to one event loop.
"""

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from serval.scheduling.slots import Slots

T = TypeVar("T")

VERY_LONG_BYTES: Final = 1 << 18
_LONGEST_RETRY_AFTER_S: Final = 60
# Assumed until work is measured: the speed of a slow core.
_FIRST_BYTES_PER_S: Final = 500_000.0
_SHARE_OF_NEWEST: Final = 0.1
# While threads work, the loop waits this long for Python's lock at each callback. Set at all times, it makes
# a short request a tenth dearer, because the thread of the log takes the lock more often.
_SWITCH_INTERVAL_S: Final = 0.0002


class RenderQueue:
    """See the module."""

    def __init__(
        self,
        threads: int,
        *,
        inline_bytes: int,
        queue_limit: int,
        timeout_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Requests over `inline_bytes` are long. At most `queue_limit` wait, each `timeout_s` at most."""
        self._inline_bytes = inline_bytes
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="render")
        self._threads = threads

        def slots(number: int) -> Slots:
            return Slots(
                number,
                queue_limit=queue_limit,
                timeout_s=timeout_s,
                wanted="a thread of this server",
                retry_after_s=self._retry_after_s,
                now=now,
            )

        self._slots = slots(threads)
        self._very_long = slots(max(1, threads - 1))
        self._now = now
        # Bytes of requests that have not been worked on yet.
        self._bytes_waiting = 0
        self._working = 0
        self._usual_switch_interval_s = sys.getswitchinterval()
        self._bytes_per_s = _FIRST_BYTES_PER_S

    def is_long(self, size: int) -> bool:
        """Return True if a request of `size` bytes needs a thread."""
        return size > self._inline_bytes

    async def run(self, key: str | None, size: int, work: Callable[[], T]) -> T:
        """Do the work on a long request of `size` bytes when it is its turn.

        The thread stays taken until the work ends, even if the caller leaves. Raises what `work` raises, and
        `EngineOverloadedError` if too many requests wait, or if this one has waited for too long.
        """
        taken = await self._take_slots(key, size)
        started, loop = self._now(), asyncio.get_running_loop()

        def end() -> None:
            self._note_speed(size, self._now() - started)
            self._count_work(-1)
            _release(taken)

        def done(_: "Future[T]") -> None:
            # The loop may have ended before the work.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(end)

        job = self._executor.submit(work)
        self._count_work(1)
        job.add_done_callback(done)
        return await asyncio.wrap_future(job)

    async def _take_slots(self, key: str | None, size: int) -> list[Slots]:
        needed = [self._very_long, self._slots] if size > VERY_LONG_BYTES else [self._slots]
        taken: list[Slots] = []
        self._bytes_waiting += size
        try:
            for slots in needed:
                if not slots.try_acquire():
                    await slots.acquire(key, "default", size)
                taken.append(slots)
        except BaseException:
            _release(taken)
            raise
        finally:
            self._bytes_waiting -= size
        return taken

    def close(self) -> None:
        """Take no more work. Work in progress goes on."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _count_work(self, change: int) -> None:
        self._working += change
        sys.setswitchinterval(_SWITCH_INTERVAL_S if self._working else self._usual_switch_interval_s)

    def _note_speed(self, size: int, took_s: float) -> None:
        speed = size / max(took_s, 1e-3)
        self._bytes_per_s += _SHARE_OF_NEWEST * (speed - self._bytes_per_s)

    def _retry_after_s(self) -> int:
        wait_s = self._bytes_waiting / self._bytes_per_s / self._threads
        return min(max(math.ceil(wait_s), 1), _LONGEST_RETRY_AFTER_S)


def _release(taken: Sequence[Slots]) -> None:
    for slots in taken:
        slots.release()
