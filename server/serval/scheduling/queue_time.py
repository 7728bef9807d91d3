"""Time that a request spends waiting for its turn."""

import time
from collections.abc import Awaitable
from typing import TypeVar

from serval.engine.protocol import GenerateRequest
from serval.telemetry.record import RequestRecord
from serval.telemetry.stopwatch import ENGINE, QUEUE

T = TypeVar("T")


async def timed_as_queue(turn: Awaitable[T], request: GenerateRequest, record: RequestRecord) -> T:
    """Await the request's turn, whose time counts as waiting in the queue."""
    # Other requests of a call may wait while its first one is with the engine.
    if request.request_id != record.engine_request_id:
        return await turn
    record.clock.enter(QUEUE, time.perf_counter())
    try:
        return await turn
    finally:
        record.clock.enter(ENGINE, time.perf_counter())
