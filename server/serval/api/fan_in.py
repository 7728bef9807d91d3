"""Several async generators read as one, in the order their items come."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from serval.api.http import cancel_and_wait

T = TypeVar("T")

# Items a source may be ahead of the reader; then it waits, and so does the engine behind it.
_AHEAD = 64


async def fan_in(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Items of all sources with their source's place. The first error of any ends all; closing closes all."""
    if len(sources) == 1:
        async with aclosing(sources[0]) as source:
            async for item in source:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue(_AHEAD)

    async def read(place: int, source: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await queue.put((place, item))
        except Exception as error:  # noqa: BLE001  (handed to the reader, which raises it)
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(read(place, source)) for place, source in enumerate(sources)]
    try:
        running = len(tasks)
        while running:
            entry = await queue.get()
            if entry is None:
                running -= 1
            elif isinstance(entry, BaseException):
                raise entry
            else:
                yield entry
    finally:
        await cancel_and_wait(*tasks)
