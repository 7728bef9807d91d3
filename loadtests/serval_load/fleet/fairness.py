"""A key with a hundred times the requests of another: how long the other waits, and where."""

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from serval_load.fleet.clients import Asked, ask, first_tokens
from serval_load.fleet.finding import Finding
from serval_load.fleet.stack import Engine, Fleet, loads
from serval_load.workloads.sessions import words

GREEDY, MODEST = 0, 1
# Bounds on the small key's wait, to that with one engine, and on an engine's own queue, to what slots allow.
SLOWER, QUEUED = 1.5, 2.0
_ANSWER = 20
_LOOK_EVERY_S = 0.05


@dataclass
class Waits:
    """Requests of the modest key, and what the engines' own queues held meanwhile."""

    asked: list[Asked] = field(default_factory=list)
    queues: list[int] = field(default_factory=list)


async def flood(fleet: Fleet, *, greedy: int, seconds: float, seed: int) -> Waits:
    """Let `greedy` clients of one key ask without a pause; meanwhile another key asks, one at a time.

    Nothing is counted in the first fifth of the time.
    """
    source = random.Random(seed)
    found = Waits()

    async def one(key: int) -> Asked:
        turn = {"messages": [{"role": "user", "content": words(source, 30)}], "max_tokens": _ANSWER}
        return Asked(key, 0.0, await ask(fleet.peer(key), turn))

    async def greedy_client() -> None:
        while True:
            await one(GREEDY)

    async with _cancelled_at_end([greedy_client() for _ in range(greedy)]):
        await asyncio.sleep(seconds / 5)
        end = asyncio.get_running_loop().time() + seconds * 4 / 5
        async with _cancelled_at_end([_watch(fleet.engines, found.queues)]):
            while asyncio.get_running_loop().time() < end:
                found.asked.append(await one(MODEST))
    return found


@asynccontextmanager
async def _cancelled_at_end(work: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(engines: Sequence[Engine], queues: list[int]) -> None:
    while True:
        queues += [one.waiting for one in await loads(engines)]
        await asyncio.sleep(_LOOK_EVERY_S)


def compare(alone: Waits, several: Waits, *, max_running: int) -> Finding:
    """Compare one large engine and gateway with several; `max_running` is that of each of several engines.

    Slots exceed what an engine runs by an eighth, which waits in the engine's own queue, and two at least.
    """
    finding = Finding(
        ("", "requests of the small key", "failed", "first token p50, s", "p99, s",
         "engine's own queue: mean", "largest")
    )  # fmt: skip
    for name, waits in (("one engine, one gateway", alone), ("several", several)):
        failed = sum(not one.answer.complete for one in waits.asked)
        p50, p99 = (f"{first_tokens(waits.asked, percent):.2f}" for percent in (50, 99))
        mean, most = sum(waits.queues) / max(len(waits.queues), 1), max(waits.queues, default=0)
        finding.rows.append([name, len(waits.asked), failed, p50, p99, f"{mean:.1f}", most])
        finding.expect(not failed, f"{name}: {failed} requests of the small key failed")
    before, after = (first_tokens(waits.asked, 50) for waits in (alone, several))
    finding.expect(after <= SLOWER * before, f"the small key waits {after / before:.2f} times as long")
    mean = sum(several.queues) / max(len(several.queues), 1)
    bound = QUEUED * max(2, max_running / 8)
    finding.expect(mean <= bound, f"an engine's own queue holds {mean:.1f} requests, more than {bound:g}")
    return finding
