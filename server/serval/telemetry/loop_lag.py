"""Lag of the event loop: the delay that other work adds to a request."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_INTERVAL_S = 0.25


@contextmanager
def watching_loop(observe: Callable[[float], None]) -> Iterator[None]:
    """Call `observe` a few times a second with the seconds by which a timer was late."""
    loop = asyncio.get_running_loop()

    async def watch() -> None:
        while True:
            due = loop.time() + _INTERVAL_S
            await asyncio.sleep(_INTERVAL_S)
            observe(max(0.0, loop.time() - due))

    task = loop.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
