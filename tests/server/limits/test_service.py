"""The limit service and its clients: shared limits, dead workers, restarts, and the fallback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from serval.api.http import cancel_and_wait
from serval.caller.limits import Limits
from serval.errors import LimitsUnavailableError
from serval.limits.client import LimiterClient
from serval.limits.codec import Settle, encode
from serval.limits.daily_use import DailyUse
from serval.limits.fallback import FallbackLimiter
from serval.limits.ledger import Ledger, Moment
from serval.limits.limiter import LedgerUnreachableError
from serval.limits.messages import ReservationRequest
from serval.limits.service import serve_ledger, serve_limits
from serval.settings import Settings

NUMBERS = count()


def request(limits: Limits, tokens: int = 1) -> ReservationRequest:
    return ReservationRequest(f"id-{next(NUMBERS)}", "a", limits, tokens)


def frozen() -> Moment:
    """A time at which nothing drains."""
    return Moment(1000, 1_800_000_000.0)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "limits.sock"


@asynccontextmanager
async def workers_of(socket: Path, number: int) -> AsyncIterator[list[LimiterClient]]:
    async with AsyncExitStack() as stack:
        workers = [LimiterClient(socket) for _ in range(number)]
        for worker in workers:
            await stack.enter_async_context(worker.lifespan())
        yield workers


def ledger() -> Ledger:
    return Ledger(DailyUse(), lease_ms=60_000)


async def until_admitted(worker: LimiterClient, limits: Limits, tokens: int = 1) -> None:
    """Reserve until it is admitted: messages without a reply arrive a little later."""
    async with asyncio.timeout(60):
        while (await worker.reserve(request(limits, tokens))).refused is not None:
            pass


async def test_service_workers_share_one_limit(socket: Path) -> None:
    limits = Limits(requests_per_minute=100, tokens_per_minute=10**6)
    async with serve_ledger(socket, ledger(), now=frozen), workers_of(socket, 4) as workers:
        decisions = await asyncio.gather(
            *(worker.reserve(request(limits)) for _ in range(100) for worker in workers)
        )
    assert sum(decision.refused is None for decision in decisions) == 100


async def test_service_settlement_is_visible_to_other_workers(socket: Path) -> None:
    limits = Limits(tokens_per_minute=100, concurrent_requests=1)
    async with serve_ledger(socket, ledger(), now=frozen), workers_of(socket, 2) as (one, two):
        first = request(limits, 100)
        assert (await one.reserve(first)).refused is None
        assert (await two.reserve(request(limits))).refused == "concurrency"
        one.settle(first, requests=1, tokens=30)
        await until_admitted(two, limits, 70)


async def test_service_dead_worker_frees_slots_and_keeps_debits(socket: Path) -> None:
    limits = Limits(tokens_per_minute=1000, concurrent_requests=8)
    async with serve_ledger(socket, ledger(), now=frozen), workers_of(socket, 1) as (survivor,):
        async with workers_of(socket, 1) as (victim,):
            for _ in range(8):
                await victim.reserve(request(limits, 100))
            assert (await survivor.reserve(request(limits))).refused == "concurrency"
        await until_admitted(survivor, limits, 0)
        decision = await survivor.reserve(request(limits, 0))
        assert (decision.refused, decision.tokens_remaining) == (None, 200)


async def test_client_cancelled_reserve_leaves_nothing_reserved(socket: Path) -> None:
    limits = Limits(concurrent_requests=1)
    async with serve_ledger(socket, ledger(), now=frozen), workers_of(socket, 1) as (worker,):
        for _ in range(10):
            reserving = asyncio.create_task(worker.reserve(request(limits)))
            await asyncio.sleep(0)
            await cancel_and_wait(reserving)
        await until_admitted(worker, limits)


async def test_client_reconnects_to_a_restarted_service(socket: Path) -> None:
    limits = Limits(concurrent_requests=1)
    async with AsyncExitStack() as stack:
        async with serve_ledger(socket, ledger(), now=frozen):
            (worker,) = await stack.enter_async_context(workers_of(socket, 1))
            assert (await worker.reserve(request(limits))).refused is None
        async with asyncio.timeout(60):
            await until_unreachable(worker, limits)
        async with serve_ledger(socket, ledger(), now=frozen), asyncio.timeout(60):
            await until_reachable(worker, limits)


async def until_unreachable(worker: LimiterClient, limits: Limits) -> None:
    while True:
        try:
            await worker.reserve(request(limits))
        except LedgerUnreachableError:
            return


async def until_reachable(worker: LimiterClient, limits: Limits) -> None:
    while True:
        try:
            await worker.reserve(request(limits))
        except LedgerUnreachableError:
            await asyncio.sleep(0.01)
        else:
            return


async def test_service_invalid_message_closes_only_its_connection(socket: Path) -> None:
    limits = Limits(requests_per_minute=10)
    async with serve_ledger(socket, ledger(), now=frozen), workers_of(socket, 1) as (worker,):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(encode(Settle("nothing", 1, 1))[:-3] + b"\xff\xff\xff" + b"\0\0\0\1\xc1")
        assert await reader.read() == b""
        writer.close()
        assert (await worker.reserve(request(limits))).refused is None


async def test_service_daily_use_survives_a_restart(socket: Path, tmp_path: Path) -> None:
    settings = Settings(key_database=str(tmp_path / "keys.db"), tokens_per_day=100)
    limits = Limits(tokens_per_day=100)
    for expected in (None, "budget"):
        async with serve_limits(socket, settings), workers_of(socket, 1) as (worker,):
            assert (await worker.reserve(request(limits, 60))).refused == expected


class Clock:
    """Both clocks of a `FallbackLimiter`."""

    def __init__(self) -> None:
        self.s = 1000.0

    def moment(self) -> Moment:
        return Moment(int(self.s * 1000), 1_800_000_000.0)

    def __call__(self) -> float:
        return self.s


def fallback_of(worker: LimiterClient, clock: Clock) -> FallbackLimiter:
    return FallbackLimiter(worker, ledger(), share=0.5, grace_s=60, now=clock.moment, monotonic=clock)


async def test_fallback_allows_its_share_while_the_service_is_away(socket: Path) -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=100, concurrent_requests=4)
    limiter = fallback_of(LimiterClient(socket), Clock())
    requests = [request(limits, 10) for _ in range(4)]
    assert [(await limiter.reserve(one)).refused for one in requests] == [
        None,
        None,
        "concurrency",
        "concurrency",
    ]
    for one in requests[:2]:
        limiter.settle(one, requests=1, tokens=10)
    # Larger than the share, but not larger than the limit.
    assert (await limiter.reserve(request(limits, 80))).refused == "tokens"
    large = request(Limits(tokens_per_minute=100), 80)
    assert (await fallback_of(LimiterClient(socket), Clock()).reserve(large)).refused is None


async def test_fallback_admits_a_call_larger_than_the_share_when_it_is_alone(socket: Path) -> None:
    limits = Limits(requests_per_minute=10, concurrent_requests=8)
    limiter = fallback_of(LimiterClient(socket), Clock())
    large = ReservationRequest("large", "a", limits, requests=8)
    assert (await limiter.reserve(large)).refused is None
    assert (await limiter.reserve(request(limits))).refused == "concurrency"
    limiter.settle(large, requests=8, tokens=0)
    # It is charged in full: 8 of the share of 5.
    assert (await limiter.reserve(request(limits))).refused == "requests"


async def test_fallback_admits_budgets_for_the_grace_period_only(socket: Path) -> None:
    clock = Clock()
    limits = Limits(tokens_per_day=100)
    limiter = fallback_of(LimiterClient(socket), clock)
    assert (await limiter.reserve(request(limits))).refused is None
    clock.s += 60
    assert (await limiter.reserve(request(limits))).refused is None
    clock.s += 1
    with pytest.raises(LimitsUnavailableError) as caught:
        await limiter.reserve(request(limits))
    assert caught.value.headers["retry-after"] == "2"
    # Keys without a budget are still served.
    assert (await limiter.reserve(request(Limits(requests_per_minute=10)))).refused is None


async def test_fallback_returns_to_the_service_when_it_is_back(socket: Path) -> None:
    clock = Clock()
    limits = Limits(concurrent_requests=2, tokens_per_day=100)
    worker = LimiterClient(socket)
    limiter = fallback_of(worker, clock)
    local = request(limits)
    await limiter.reserve(local)
    clock.s += 100
    async with serve_ledger(socket, ledger(), now=frozen), limiter.lifespan():
        assert [(await limiter.reserve(request(limits))).refused for _ in range(3)] == [
            None,
            None,
            "concurrency",
        ]
        # A reservation made locally is settled locally.
        limiter.settle(local, requests=1, tokens=1)
        assert (await limiter.reserve(request(limits))).refused == "concurrency"
