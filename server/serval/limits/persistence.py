"""Daily use in the key database, so that a restart forgets nothing.

A killed process loses the use of the last `SAVE_EVERY_S`; requests running at that time stay counted with
everything they had reserved. Processes that share the database see each other's use with the same delay.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from serval.limits.daily_use import DAY_S, KEPT_DAYS, DailyUse
from serval.store.daily_tokens import DailyTokens

logger = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 1.0


class DailyUsePersister:
    """Synchronises daily use between memory and the database. A failed save is retried."""

    def __init__(self, daily: DailyUse, table: DailyTokens, *, now: Callable[[], float] = time.time) -> None:
        self._daily = daily
        self._table = table
        self._now = now
        self._loaded_day: int | None = None

    async def load(self) -> None:
        """Load the use of the days that budgets count, and of tomorrow, as the clock may be set."""
        today = int(self._now() // DAY_S)
        first, last = today - KEPT_DAYS, today + 1
        self._daily.merge_saved(await asyncio.to_thread(self._table.load, first, last))
        self._daily.drop_other_days(first, last)
        self._loaded_day = today

    async def save(self) -> None:
        """Save unsaved use, and take over the totals with the use of others; on a new day, load all."""
        unsaved = self._daily.pop_unsaved()
        if unsaved:
            try:
                totals = await asyncio.to_thread(self._table.increment, unsaved)
            except BaseException:
                self._daily.restore_unsaved(unsaved)
                raise
            self._daily.merge_saved(totals)
        if int(self._now() // DAY_S) != self._loaded_day:
            await self.load()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Load, save every second while entered, and once at the end. The load raises SQLAlchemy's errors."""
        await self.load()
        stop = asyncio.Event()
        saver = asyncio.create_task(self._save_until(stop))
        try:
            yield
        finally:
            stop.set()
            await saver

    async def _save_until(self, stop: asyncio.Event) -> None:
        failing = False
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), SAVE_EVERY_S)
            stopping = stop.is_set()
            try:
                await self.save()
                failing = False
            except (SQLAlchemyError, OSError) as error:
                if not failing or stopping:
                    logger.warning("daily token use cannot be saved: %s", type(error).__name__)
                failing = True
            if stopping:
                return
