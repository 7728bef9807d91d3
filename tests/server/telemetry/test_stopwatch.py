"""The split of a request's time, for any sequence of phases and for real requests."""

import asyncio
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serval.telemetry.logs import RequestEntry
from serval.telemetry.record import RequestRecord
from serval.telemetry.stopwatch import Phase, Stopwatch
from serval_testkit.gateway import MODEL, running_gateway

# Multiples of a power of two: their sums are exact.
stays = st.tuples(st.sampled_from(Phase), st.integers(0, 2**20).map(lambda ticks: ticks / 1024))


@given(started=st.integers(0, 2**20), sequence=st.lists(stays, max_size=30), last=st.integers(0, 2**20))
def test_stopwatch_parts_add_up_to_the_elapsed_time(
    started: int, sequence: list[tuple[Phase, float]], last: int
) -> None:
    clock = Stopwatch(float(started))
    expected = dict.fromkeys(Phase, 0.0)
    now, phase = float(started), Phase.GATEWAY
    for entered, stay in sequence:
        now += stay
        expected[phase] += stay
        clock.enter(entered, now)
        phase = entered
    expected[phase] += last
    elapsed_s = now + last - started
    parts = {each: clock.seconds_in(each, elapsed_s) for each in Phase}
    assert parts == expected
    assert sum(parts.values()) == elapsed_s


def test_stopwatch_reports_no_queue_time_for_a_request_that_was_not_queued() -> None:
    clock = Stopwatch(0.0)
    clock.enter(Phase.ENGINE, 1.0)
    assert clock.queue_s(2.0) is None
    clock.enter(Phase.QUEUE, 2.0)
    assert clock.queue_s(5.0) == 3.0
    clock.enter(Phase.ENGINE, 5.0)
    assert clock.queue_s(9.0) == 3.0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choices", [1, 3])
async def test_request_record_has_time_of_every_phase_that_a_request_was_in(
    stream: bool, choices: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks: list[Stopwatch] = []
    line = RequestEntry.__init__

    def keep(entry: RequestEntry, record: RequestRecord) -> None:
        clocks.append(record.clock)
        line(entry, record)

    monkeypatch.setattr(RequestEntry, "__init__", keep)
    caplog.set_level(logging.INFO, "serval.requests")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": stream, "n": choices}
    async with running_gateway(engine_slots=1) as gateway:
        gateway.engine.will_say("a", delay_s=0.1, fault="stall")
        ahead = asyncio.create_task(gateway.post({**body, "n": 1}))
        await asyncio.wait_for(gateway.engine.generating.wait(), 30)
        for _ in range(choices):
            gateway.engine.will_say("a", "b", delay_s=0.1)
        behind = asyncio.create_task(gateway.post(body))
        await asyncio.sleep(0.2)
        ahead.cancel()
        await behind
    clock = clocks[-1]
    elapsed_s = time.perf_counter() - clock.started
    parts = [clock.seconds_in(phase, elapsed_s) for phase in Phase]
    assert sum(parts) == pytest.approx(elapsed_s)
    assert min(parts) > 0
