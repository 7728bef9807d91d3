"""Reading of what all keys and teams have used, out of the Redis that keeps the limits."""

import re
from typing import Any, Final

from redis.asyncio import Redis

from serval.caller.budgets import Used

_DAYS: Final = re.compile(r"serval:\{k:(.*)\}:days", re.DOTALL)
_BOOKS: Final = ("cost", "held", "held_cost")


async def use_in_redis(redis: Redis) -> dict[tuple[str, int], Used]:
    """The use by subject and day. Raises redis's errors."""
    found = {}
    # Texts, as the client decodes answers; its types do not say so.
    names: Any = redis.scan_iter(match="serval:{k:*}:days", count=1000)
    async for name in names:
        match = _DAYS.fullmatch(name)
        if match is None:
            continue
        days: Any = await redis.hgetall(name)
        books: Any = await redis.hgetall(name.removesuffix("days") + "books")
        for day, tokens in days.items():
            amounts = [int(books.get(f"{book}:{day}", 0)) for book in _BOOKS]
            found[match[1], int(day)] = Used(int(tokens), *amounts)
    return found
