"""Reports of soft limits: once in a period, retried a few times, never in the way of a request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy.exc import OperationalError

from serval.api.http import cancel_and_wait
from serval.caller.budgets import Budget
from serval.limits.daily_use import DAY_S
from serval.limits.soft_limits import SoftLimits
from serval.store.budget_notices import BudgetNotices
from serval.store.database import open_database
from serval_testkit.gateway_process import wait_until

BUDGET = Budget("cost", "month", 10**9, 5 * 10**8)
TODAY = 20_000


class Receiver:
    """A webhook that answers with the given statuses, and 200 after them."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.received: list[Any] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.received.append(await request.json())
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Receiver"]:
        app = web.Application()
        app.router.add_post("/hook", self.take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        try:
            yield self
        finally:
            await runner.cleanup()


class Process:
    """The reports of one process, and what they counted."""

    def __init__(self, claims: Any, url: str | None) -> None:
        self.counted: list[Budget] = []
        self.day = TODAY
        self.limits = SoftLimits(
            claims,
            webhook=url,
            name_of=lambda _: "lab",
            reported=self.counted.append,
            now=lambda: float(self.day * DAY_S),
            retry_after_s=(0.0, 0.0),
        )

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["Process"]:
        watching = asyncio.create_task(self.limits.watch())
        yield self
        await cancel_and_wait(watching)


async def test_soft_limit_is_reported_once_in_a_period_by_all_processes(key_database: str) -> None:
    notices = BudgetNotices(open_database(key_database))
    async with (
        Receiver().running() as receiver,
        Process(notices, receiver.url).watching() as one,
        Process(notices, receiver.url).watching() as two,
    ):
        for process in (one, two, one):
            process.limits.note("team:7c1e", BUDGET)
        await wait_until(lambda: len(receiver.received) == 1)
        for process in (one, two):
            process.day += 31
            process.limits.note("team:7c1e", BUDGET)
            process.limits.note("7c1e", BUDGET)
        await wait_until(lambda: len(receiver.received) == 3)
        assert len(one.counted) + len(two.counted) == 3
    first = receiver.received[0]
    assert (first["team"], first["name"], first["unit"], first["period"]) == ("7c1e", "lab", "cost", "month")
    assert (first["soft"], first["hard"]) == ("0.50", "1.00")
    assert first["period_start"] <= TODAY * DAY_S < first["period_end"]


@pytest.mark.parametrize(("statuses", "posts"), [((500, 503), 3), ((500, 302, 404), 3)])
async def test_webhook_that_fails_is_tried_again_a_bounded_number_of_times(
    tmp_path: Any, statuses: tuple[int, ...], posts: int, caplog: pytest.LogCaptureFixture
) -> None:
    notices = BudgetNotices(open_database(str(tmp_path / "keys.db")))
    async with (
        Receiver(*statuses).running() as receiver,
        Process(notices, receiver.url).watching() as process,
    ):
        process.limits.note("a", BUDGET)
        process.limits.note("b", BUDGET)
        # The second notice follows whatever became of the first.
        await wait_until(lambda: len(receiver.received) == posts + 1)
    assert [each["key"] for each in receiver.received] == ["a"] * posts + ["b"]
    lost = [record for record in caplog.records if "a notice is lost" in record.message]
    assert len(lost) == len(statuses) - 2
    assert receiver.url not in caplog.text


async def test_soft_limit_is_reported_after_the_database_was_away(tmp_path: Any) -> None:
    notices = BudgetNotices(open_database(str(tmp_path / "keys.db")))

    class Away:
        calls = 0

        def claim(self, subject: str, budget: Budget, today: int) -> bool:
            self.calls += 1
            if self.calls == 1:
                raise OperationalError("INSERT", {}, ConnectionError())
            return notices.claim(subject, budget, today)

    away = Away()
    async with Process(away, None).watching() as process:
        async with asyncio.timeout(60):
            while not process.counted:
                process.limits.note("a", BUDGET)
                await asyncio.sleep(0.05)
    assert away.calls == 2


async def test_note_waits_for_nothing_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(None, None)
    for number in range(5000):
        process.limits.note(str(number), BUDGET)
    assert process.limits._waiting.qsize() == 1000
