"""Reports of budgets whose soft limit was reached: a metric, a line in the log, and a webhook.

Each is reported once in its period, by one process of all that share the key database. Requests only put a
note into a queue; everything else happens beside them.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import aiohttp
from sqlalchemy.exc import SQLAlchemyError

from serval.caller.budgets import Budget, amount_text, period_days
from serval.caller.identity import TEAM
from serval.limits.daily_use import DAY_S

logger = logging.getLogger(__name__)

# Notes that wait, and notes that are remembered, in each process.
_MAX_WAITING: Final = 1000
_MAX_REMEMBERED: Final = 100_000
_TIMEOUT_S: Final = 10.0
# Pauses before the further attempts to post a notice.
RETRY_AFTER_S: Final = (1.0, 10.0, 60.0)
_SECOND: Final = 1.0


class Claims(Protocol):
    """The table of notices, see `serval.store.budget_notices`."""

    def claim(self, subject: str, budget: Budget, today: int) -> bool:
        """Return True for the first call in a period."""


class SoftLimits:
    """The reports of one process. `watch` sends them."""

    def __init__(
        self,
        claims: Claims,
        *,
        webhook: str | None,
        name_of: Callable[[str], str | None],
        reported: Callable[[Budget], None],
        now: Callable[[], float] = time.time,
        retry_after_s: tuple[float, ...] = RETRY_AFTER_S,
    ) -> None:
        """`name_of` knows the name of a subject, and `reported` counts a budget that is reported."""
        self._claims = claims
        self._webhook = webhook
        self._name_of = name_of
        self._reported = reported
        self._now = now
        self._retry_after_s = retry_after_s
        self._waiting: asyncio.Queue[tuple[str, Budget, int]] = asyncio.Queue(_MAX_WAITING)
        # By subject, budget and first day of the period.
        self._noted: set[tuple[str, Budget, int]] = set()

    def note(self, subject: str, budget: Budget) -> None:
        """Note that the soft limit was reached. Waits for nothing."""
        today = int(self._now() // DAY_S)
        mark = (subject, budget, period_days(budget.period, today).start)
        if mark in self._noted or self._waiting.full():
            # If it is full, the next request of this key notes it again.
            return
        if len(self._noted) >= _MAX_REMEMBERED:
            self._noted.clear()
        self._noted.add(mark)
        self._waiting.put_nowait((subject, budget, today))

    async def watch(self) -> None:
        """Report what is noted, until cancelled."""
        while True:
            subject, budget, today = await self._waiting.get()
            try:
                if await asyncio.to_thread(self._claims.claim, subject, budget, today):
                    await self._report(subject, budget, today)
            except SQLAlchemyError as error:
                logger.warning("a soft limit cannot be reported yet: %s", type(error).__name__)
                self._noted.discard((subject, budget, period_days(budget.period, today).start))
                await asyncio.sleep(_SECOND)
            except Exception:
                # A defect; without this no soft limit would be reported any more.
                logger.exception("a soft limit cannot be reported")

    async def _report(self, subject: str, budget: Budget, today: int) -> None:
        self._reported(budget)
        notice = _notice(subject, self._name_of(subject), budget, today)
        fields = {name: value for name, value in notice.items() if name != "text"}
        logger.warning("soft limit of a budget reached", extra={"fields": fields})
        if self._webhook is not None:
            await self._post(self._webhook, notice)

    async def _post(self, url: str, notice: dict[str, Any]) -> None:
        """Post the notice, a few times if need be. The URL, which may hold a secret, is never logged."""
        problem = ""
        for pause_s in (0.0, *self._retry_after_s):
            await asyncio.sleep(pause_s)
            try:
                async with (
                    aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session,
                    session.post(url, json=notice, allow_redirects=False) as response,
                ):
                    # A redirection is no success either: it is not followed.
                    if response.status < 300:
                        return
                    problem = f"HTTP {response.status}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                problem = type(error).__name__
        logger.error("the webhook of budgets cannot be reached, a notice is lost: %s", problem)


def _notice(subject: str, name: str | None, budget: Budget, today: int) -> dict[str, Any]:
    kind, identifier = ("team", subject.removeprefix(TEAM)) if subject.startswith(TEAM) else ("key", subject)
    days = period_days(budget.period, today)
    amounts = {
        limit: None if amount is None else amount_text(budget.unit, amount)
        for limit, amount in (("soft", budget.soft), ("hard", budget.hard))
    }
    used = f"{amounts['soft']}{' tokens' if budget.unit == 'tokens' else ''}"
    return {
        "type": "budget.soft_limit_reached",
        kind: identifier,
        "name": name,
        "unit": budget.unit,
        "period": budget.period,
        "period_start": days.start * DAY_S,
        "period_end": days.stop * DAY_S,
        **amounts,
        # Shown by chat services that take webhooks.
        "text": f"Serval: the {kind} {name or identifier} has used {used} this {budget.period}",
    }
