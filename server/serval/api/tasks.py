"""Running several coroutines at once, until the first error."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from serval.api.http import cancel_and_wait


async def all_of(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all to completion. The first error cancels the others, and is raised once they have ended."""
    if len(works) == 1:
        await works[0]
        return
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await cancel_and_wait(*tasks)
