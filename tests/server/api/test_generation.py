"""Settlement: whatever happens to the requests of a call, its reservation ends equal to their use."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from serval.api.generation import Generation
from serval.api.http import cancel_and_wait
from serval.auth.running import RunningRequests
from serval.caller.identity import Identity
from serval.caller.limits import KeyLimits, Limits
from serval.engine.protocol import GenerateRequest, GenerationDelta
from serval.errors import (
    ApiError,
    EngineFailureError,
    EngineOverloadedError,
    EngineProtocolError,
    EngineStreamBrokenError,
    EngineTimeoutError,
    EngineUnavailableError,
    InvalidRequestError,
    ShuttingDownError,
)
from serval.limits.daily_use import DAY_S, DailyUse
from serval.limits.gate import Gate
from serval.limits.ledger import Ledger, Moment
from serval.limits.local import LocalLimiter
from serval.limits.messages import ReservationRequest
from serval.scheduling.engine import ScheduledEngine, ScheduledSink
from serval.telemetry.record import RequestRecord

PLENTY = 10**6
NOW = Moment(1000, 20_000 * DAY_S + 60.0)
LIMITS = Limits(PLENTY, PLENTY, PLENTY, PLENTY)
# Errors with which the engine says that it did not work on a request, and others.
REFUSALS = (InvalidRequestError, EngineFailureError, EngineOverloadedError, EngineUnavailableError)
BREAKS = (EngineTimeoutError, EngineStreamBrokenError, EngineProtocolError, ShuttingDownError)


@dataclass
class Fate:
    """The course of one request of the engine."""

    sent: bool = True
    tokens: int = 0
    # None: it finishes, if it has tokens, or else stays silent until the call ends.
    error: type[ApiError] | None = None

    @property
    def counts(self) -> bool:
        return self.sent and (self.tokens > 0 or self.error not in REFUSALS)


def fates() -> st.SearchStrategy[Fate]:
    return st.builds(
        Fate,
        sent=st.booleans(),
        tokens=st.sampled_from([0, 0, 1, 7]),
        error=st.sampled_from([None, None, None, *REFUSALS, *BREAKS]),
    )


class FatedEngine:
    """A `ScheduledEngine` whose requests meet their fates: first all that work, then those that fail."""

    def __init__(self, fates: list[Fate]) -> None:
        self.fates = fates

    async def generate(self, request: GenerateRequest, sink: ScheduledSink, record: RequestRecord) -> None:
        fate = self.fates[int(request.request_id)]
        if fate.sent:
            sink.dispatched()
            for done in range(1, fate.tokens + 1):
                finish = "stop" if done == fate.tokens and fate.error is None else None
                sink.send(
                    GenerationDelta(
                        text="x",
                        # The engine knows better than the gateway how long the prompt is.
                        prompt_tokens=len(request.input_ids) + 5,
                        completion_tokens=done,
                        cached_tokens=0,
                        finish=cast(Any, finish),
                    )
                )
            if fate.tokens and fate.error is None:
                return
        if fate.error is not None:
            # After everything else, so that it is known what else was used.
            for _ in range(20):
                await asyncio.sleep(0)
            raise fate.error("x")
        await asyncio.sleep(3600)


async def run_call(gate: Gate, call: list[list[Fate]]) -> BaseException | None:
    """Run a call with one prompt for each list of choices; the client leaves if it does not end."""
    identity = Identity(frozenset(), key_id="a", limits=KeyLimits(PLENTY, PLENTY, PLENTY, PLENTY))
    record = RequestRecord(request_id="r", method="POST", route="/")
    choices = len(call[0])
    requests = [
        GenerateRequest(str(prompt * choices + choice), [1] * (100 * prompt + 10), {})
        for prompt in range(len(call))
        for choice in range(choices)
    ]
    engine = cast(ScheduledEngine, FatedEngine([fate for prompt in call for fate in prompt]))

    async def serve() -> None:
        async with gate.reservation(identity, record, requests=len(requests)) as reservation:
            prompt_tokens = sum(100 * prompt + 10 for prompt in range(len(call)))
            await reservation.reserve_tokens(prompt_tokens=prompt_tokens, completion_limit=50)
            running = RunningRequests(lambda _: True, check_every_s=1).of(identity)
            generation = Generation(
                engine, requests, choices=choices, reservation=reservation, running=running
            )
            await generation.run(record, lambda index, delta: True)

    return await outcome_of(serve())


async def outcome_of(work: Awaitable[None]) -> BaseException | None:
    """The error with which `work` ends, or None; it is cancelled if it does not end."""
    task = asyncio.ensure_future(work)
    for _ in range(200):
        await asyncio.sleep(0)
    if not task.done():
        await cancel_and_wait(task)
        return asyncio.CancelledError()
    return task.exception()


def expected(call: list[list[Fate]], outcome: BaseException | None) -> tuple[int, int]:
    """The requests and tokens that the call has used."""
    used = [fate for prompt in call for fate in prompt if fate.counts]
    tokens = sum(fate.tokens for fate in used)
    for number, prompt in enumerate(call):
        if any(fate.counts for fate in prompt):
            tokens += 100 * number + 10
        if any(fate.counts and fate.tokens for fate in prompt):
            tokens += 5
    if not used:
        server_failed = isinstance(outcome, ApiError) and outcome.status >= 500
        return (0 if server_failed else 1), 0
    return len(used), tokens


def at_most_one_error(call: list[list[Fate]]) -> None:
    """Make all failures but the first one silence: the first error ends the call."""
    failed = False
    for prompt in call:
        for fate in prompt:
            if fate.error is not None and failed:
                fate.error = None
            failed = failed or fate.error is not None


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(
        lambda size: st.lists(
            st.lists(fates(), min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
        )
    )
)
@settings(max_examples=150, deadline=None)
def test_reservation_ends_equal_to_what_was_used(call: list[list[Fate]]) -> None:
    """For any number of prompts and choices: queued, silent, answered, refused, broken off, or left."""
    at_most_one_error(call)
    daily = DailyUse()
    ledger = Ledger(daily, lease_ms=60_000)
    limiter = LocalLimiter(ledger, persistence=cast(Any, UNSET), now=lambda: NOW)
    gate = Gate(limiter, defaults=Limits(), lease_s=60, reserved_completion_tokens=10)
    outcome = asyncio.run(run_call(gate, call))
    requests, tokens = expected(call, outcome)
    assert ledger.reserve(ReservationRequest("slot", "a", Limits(concurrent_requests=1)), NOW).refused is None
    ledger.settle("slot", requests=0, tokens=0, now=NOW)
    left = ledger.reserve(ReservationRequest("probe", "a", LIMITS, requests=PLENTY - requests), NOW)
    # The probe takes all requests that are left.
    assert (left.refused, left.requests_remaining) == (None, 0)
    assert left.tokens_remaining == PLENTY - tokens
    assert daily.used("a", NOW.day) == tokens
    assert not gate.open
