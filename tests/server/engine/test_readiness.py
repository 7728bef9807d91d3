"""Readiness of an engine that stalls, hangs, ends and comes back."""

import aiohttp
import pytest

from serval.engine.client import connect_engine
from serval.engine.readiness import PATIENCE_S, Readiness
from serval.settings import Settings
from serval_testkit.fleet import new_engine


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def asked_for_two_seconds(readiness: Readiness, clock: Clock) -> None:
    """Ask as a gateway does that gets no answer."""
    asked_at = clock.now
    clock.now += 2.0
    readiness.silent(asked_at)


def readiness_of(status: int | None) -> tuple[Readiness, Clock]:
    clock = Clock()
    readiness = Readiness(now=clock)
    readiness.answered(status)
    return readiness, clock


def test_one_stall_of_two_seconds_changes_nothing() -> None:
    readiness, clock = readiness_of(200)
    asked_for_two_seconds(readiness, clock)
    assert (readiness.status, readiness.is_silent) == (200, True)
    readiness.answered(200)
    assert (readiness.status, readiness.is_silent) == (200, False)


def test_stalls_with_answers_between_them_are_not_added_up() -> None:
    readiness, clock = readiness_of(200)
    for _ in range(10):
        asked_for_two_seconds(readiness, clock)
        clock.now += 1.0
        readiness.answered(200)
    assert readiness.status == 200


def test_rare_questions_need_two_without_an_answer() -> None:
    readiness, clock = readiness_of(200)
    clock.now += 15.0
    asked_for_two_seconds(readiness, clock)
    assert readiness.status == 200
    clock.now += 13.0
    asked_for_two_seconds(readiness, clock)
    assert readiness.status is None


def test_engine_that_hangs_is_away_after_the_patience() -> None:
    readiness, clock = readiness_of(200)
    began = clock.now
    while readiness.status == 200:
        asked_for_two_seconds(readiness, clock)
        clock.now += 1.0
    assert PATIENCE_S <= clock.now - began <= PATIENCE_S + 3.0


@pytest.mark.parametrize("status", [None, 503])
def test_other_answers_count_at_once(status: int | None) -> None:
    readiness, _ = readiness_of(200)
    readiness.answered(status)
    assert readiness.status == status


@pytest.mark.parametrize("status", [None, 503])
def test_stall_does_not_make_an_engine_ready(status: int | None) -> None:
    readiness, clock = readiness_of(status)
    asked_for_two_seconds(readiness, clock)
    assert readiness.status == status


async def test_client_says_ready_during_a_stall_and_not_after_a_refused_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serval.engine.client._READY_TIMEOUT", aiohttp.ClientTimeout(total=0.05))
    stand_in = new_engine()
    async with stand_in.running(), connect_engine(Settings(engine_url=stand_in.url)) as client:
        stand_in.hangs = True
        assert not await client.is_ready()
        stand_in.hangs = False
        assert await client.is_ready()
        stand_in.hangs = True
        assert await client.is_ready()
        stand_in.hangs, stand_in.ready = False, False
        assert not await client.is_ready()
        stand_in.ready = True
        assert await client.is_ready()
    async with connect_engine(Settings(engine_url=stand_in.url)) as client:
        client.readiness.answered(200)
        assert not await client.is_ready()


@pytest.mark.parametrize(
    ("statuses", "stops"),
    [
        ([None, 503, 200], []),
        ([200, 503, None], ["told"]),
        ([200, None], ["lost"]),
        ([200, None, None, 200, None], ["lost", "lost"]),
        ([503, None], []),
    ],
)
def test_stop_is_told_or_lost(statuses: list[int | None], stops: list[str]) -> None:
    seen: list[str] = []
    readiness, _ = readiness_of(None)
    readiness.on_stop = seen.append
    for status in statuses:
        readiness.answered(status)
    assert seen == stops


def test_engine_that_hangs_is_lost_once() -> None:
    seen: list[str] = []
    readiness, clock = readiness_of(200)
    readiness.on_stop = seen.append
    for _ in range(10):
        asked_for_two_seconds(readiness, clock)
    assert seen == ["lost"]
