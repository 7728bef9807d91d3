"""Load shedding while the engine is saturated, and while it does not report its load."""

import pytest

from serval.caller.priority import PRIORITIES
from serval.engine.protocol import EngineLoadReport
from serval.errors import EngineOverloadedError, EngineUnavailableError
from serval.scheduling.load import STALE_S, EngineLoad


class Clock:
    def __init__(self) -> None:
        self.now = 100.0


class Reports:
    """Load reports of an engine; None: it does not answer."""

    def __init__(self) -> None:
        self.report: EngineLoadReport | None = None
        self.others: list[EngineLoadReport] = []
        self.noted: list[float] = []

    async def ask(self) -> list[EngineLoadReport]:
        if self.report is None:
            raise EngineUnavailableError("gone")
        return [self.report, *self.others]


def load_of(reports: Reports, clock: Clock) -> EngineLoad:
    return EngineLoad(
        reports.ask, high_queue=10, high_kv_use=0.9, on_change=reports.noted.append, now=lambda: clock.now
    )


def shed(load: EngineLoad) -> set[str]:
    refused = set()
    for priority in PRIORITIES:
        try:
            load.check(priority)
        except EngineOverloadedError:
            refused.add(priority)
    return refused


@pytest.mark.parametrize(
    ("waiting", "kv_use", "refused"),
    [
        (0, 0.0, set()),
        (9, 0.89, set()),
        (10, 0.0, {"bulk"}),
        (0, 0.9, {"bulk"}),
        (0, 1.0, {"bulk"}),
        (20, 0.0, {"bulk", "default"}),
        (10_000, 1.0, {"bulk", "default"}),
    ],
)
async def test_load_sheds_the_least_urgent_first(waiting: int, kv_use: float, refused: set[str]) -> None:
    reports = Reports()
    reports.report = EngineLoadReport(waiting=waiting, kv_use=kv_use)
    load = load_of(reports, Clock())
    await load.refresh()
    assert shed(load) == refused
    assert reports.noted == [load.saturation]


async def test_load_sheds_by_the_least_loaded_of_several() -> None:
    reports = Reports()
    reports.report = EngineLoadReport(waiting=1000, kv_use=1.0)
    reports.others = [EngineLoadReport(waiting=0, kv_use=0.95), EngineLoadReport(waiting=9, kv_use=0.1)]
    load = load_of(reports, Clock())
    await load.refresh()
    assert load.saturation == 0.9


async def test_load_sheds_nothing_on_a_stale_report() -> None:
    reports, clock = Reports(), Clock()
    reports.report = EngineLoadReport(waiting=1000, kv_use=1.0)
    load = load_of(reports, clock)
    await load.refresh()
    reports.report = None
    await load.refresh()
    assert shed(load) == {"bulk", "default"}
    clock.now += STALE_S + 0.1
    await load.refresh()
    assert shed(load) == set()
    assert reports.noted[-1] == 0.0
