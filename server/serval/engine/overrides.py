"""Orders about engines that the administrators of all gateways give, kept in force in a fleet."""

import asyncio
import logging
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from serval.engine.fleet import Fleet
from serval.engine.weights import Override, parse_weight
from serval.store.engine_overrides import OverrideTable, StoredOverride

logger = logging.getLogger(__name__)


class OverrideWatch:
    """Takes the orders over, now and whenever `watch` finds others. The last ones stay in force meanwhile."""

    def __init__(self, table: OverrideTable, fleet: Fleet, *, poll_s: float) -> None:
        """Read the orders; if they cannot be read, `watch` does it later."""
        self.table = table
        self.fleet = fleet
        self._poll_s = poll_s
        self._stored: Sequence[StoredOverride] = ()
        try:
            self._apply(table.load())
        except (SQLAlchemyError, OSError) as error:
            _log_unread(error)

    async def refresh(self) -> None:
        """Take over the orders as they are now. Raises SQLAlchemy's errors."""
        self._apply(await asyncio.to_thread(self.table.load))

    async def watch(self) -> None:
        """Refresh periodically, until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.refresh()
            except (SQLAlchemyError, OSError) as error:
                _log_unread(error)

    def _apply(self, stored: Sequence[StoredOverride]) -> None:
        if stored == self._stored:
            return
        self._stored = stored
        self.fleet.override({each.url: _override(each) for each in stored})


def _log_unread(error: Exception) -> None:
    logger.warning("the orders about engines cannot be read: %s", type(error).__name__)


def _override(stored: StoredOverride) -> Override:
    weight = None
    if stored.weight is not None:
        try:
            weight = parse_weight(stored.weight)
        except ValueError as error:
            # Another release may have stored it.
            logger.warning("the weight of engine %s is that of the list: %s", stored.url, error)
    return Override(weight, drained=stored.drained)
