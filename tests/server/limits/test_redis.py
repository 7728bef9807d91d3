"""The limiter over a real Redis: it decides as the ledger does, and Redis may fail."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.crc import key_slot

from serval.api.http import cancel_and_wait
from serval.caller.budgets import Budget, Used
from serval.caller.identity import Identity
from serval.caller.limits import KeyLimits, Limits
from serval.errors import LimitsUnavailableError, SettingsError
from serval.limits import redis_limiter
from serval.limits.daily_use import DAY_S, DailyUse
from serval.limits.factory import open_gate
from serval.limits.fallback import FallbackLimiter
from serval.limits.gate import Gate
from serval.limits.ledger import Ledger, Moment
from serval.limits.limiter import LedgerUnreachableError, Limiter
from serval.limits.messages import Decision, ReservationRequest
from serval.limits.redis_limiter import RedisLimiter, open_redis
from serval.settings import Settings
from serval.telemetry.record import RequestRecord
from serval_testkit.redis_server import RedisServer, running_redis

NUMBERS = count()
LEASE_MS = 90_000
NOON = 20_000 * DAY_S + DAY_S // 2


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


def request(limits: Limits, tokens: int = 1, subject: str = "a", **fields: int) -> ReservationRequest:
    return ReservationRequest(f"id-{next(NUMBERS)}", subject, limits, tokens, **fields)


def frozen() -> Moment:
    """A time at which nothing drains."""
    return Moment(1000, float(NOON))


@asynccontextmanager
async def gateways_of(
    server: RedisServer,
    number: int = 1,
    *,
    now: Callable[[], Moment] | None = frozen,
    timeout_s: float = 30.0,
) -> AsyncIterator[list[RedisLimiter]]:
    """`timeout_s` is long where nothing fails, as the machine may be busy."""
    async with AsyncExitStack() as stack:
        limiters = [
            RedisLimiter(
                open_redis(server.url, timeout_s=timeout_s), lease_ms=LEASE_MS, timeout_s=timeout_s, now=now
            )
            for _ in range(number)
        ]
        for limiter in limiters:
            await stack.enter_async_context(limiter.lifespan())
        yield limiters


async def until_reachable(limiter: Limiter, limits: Limits) -> Decision:
    """The first decision once Redis can be reached again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await limiter.reserve(request(limits))
            except LedgerUnreachableError:
                await asyncio.sleep(0.01)


async def until_admitted(limiter: Limiter, limits: Limits, tokens: int = 1) -> None:
    async with asyncio.timeout(60):
        while (await limiter.reserve(request(limits, tokens))).refused is not None:
            pass


async def until_unreachable(limiter: Limiter, limits: Limits) -> None:
    """Reserve until Redis does not answer."""
    async with asyncio.timeout(60):
        while True:
            try:
                await limiter.reserve(request(limits))
            except LedgerUnreachableError:
                return


class Twins:
    """A ledger and a Redis that receive the same calls at the same times."""

    def __init__(self, limiter: RedisLimiter, daily: DailyUse) -> None:
        self.limiter = limiter
        self.daily = daily
        self.ledger = Ledger(daily, lease_ms=LEASE_MS)
        self.ms = 5000
        self.day = 0

    @property
    def now(self) -> Moment:
        # An eighth of a second is exact in both number formats.
        return Moment(self.ms, NOON + self.day * DAY_S + self.ms // 125 / 8)

    async def reserve(self, one: ReservationRequest) -> Decision:
        decision = await self.limiter.reserve(one)
        assert decision == self.ledger.reserve(one, self.now)
        return decision

    async def end(self, one: ReservationRequest, *, requests: int, tokens: int, cost: int) -> None:
        self.limiter.settle(one, requests=requests, tokens=tokens, cost=cost)
        self.ledger.settle(one.id, requests=requests, tokens=tokens, cost=cost, now=self.now)
        await self.sent()

    async def renew(self, some: list[ReservationRequest]) -> None:
        self.limiter.renew(some)
        self.ledger.renew([one.id for one in some], self.now)
        await self.sent()

    async def sent(self) -> None:
        """Wait until Redis has processed everything sent so far: it answers in order."""
        await self.limiter.reserve(request(Limits(), subject="nobody"))


def used_in_redis(server: RedisServer, subject: str, day: int) -> Used:
    tag = f"serval:{{k:{subject}}}"
    books = [f"{name}:{day}" for name in ("cost", "held", "held_cost")]
    found = [server.admin().hget(f"{tag}:days", str(day)), *server.admin().hmget(f"{tag}:books", books)]
    return Used(*(int(each or 0) for each in found))


async def take_random_step(twins: Twins, requests: list[ReservationRequest], choose: random.Random) -> str:
    """Take one random step; return its name, or the decision."""
    limits = choose.choice(
        [
            Limits(6, 100, 4, 1500),
            Limits(6, 100, 4, 1500),
            Limits(requests_per_minute=2),
            Limits(requests_per_minute=11, tokens_per_minute=70),
            Limits(tokens_per_minute=100, concurrent_requests=3),
            Limits(concurrent_requests=5, tokens_per_day=1500),
            Limits(tokens_per_day=300),
            Limits(10**9, 10**9, 10**9, 10**9),
            Limits(tokens_per_day=300, budgets=(Budget("tokens", "week", 900, 500),)),
            Limits(budgets=(Budget("cost", "day", 2000), Budget("cost", "month", 5000, 1000))),
            Limits(6, 100, 4, budgets=(Budget("tokens", "month", None, 1500), Budget("cost", "week", 9000))),
        ]
    )
    step = choose.choice([*["reserve"] * 5, "end", "end", "renew", "time", "time", "day"])
    if step == "reserve":
        largest = choose.choice([100, 1000]) if limits.tokens_per_minute == 10**9 else 100
        tokens = choose.randint(0, largest)
        one = request(
            limits,
            tokens,
            choose.choice("ab"),
            optional_tokens=choose.choice([0, 0, tokens // 2, tokens]),
            requests=choose.choice([1, 1, 1, 2, 3]),
            cost=7 * tokens,
            token_cost=choose.choice([0, 7]),
        )
        requests.append(one)
        return (await twins.reserve(one)).refused or "admitted"
    if step == "end" and requests:
        # Among the last ones, some of which have ended before or were refused.
        one = choose.choice(requests[-8:])
        await twins.end(
            one,
            requests=choose.randint(0, one.requests),
            tokens=choose.choice([0, one.tokens, one.tokens // 2, one.tokens + 50]),
            cost=choose.choice([0, one.cost, one.cost // 3]),
        )
    elif step == "renew" and requests:
        # Sometimes too late.
        twins.ms += choose.choice([0, 0, LEASE_MS])
        await twins.renew(choose.sample(requests[-8:], min(3, len(requests))))
    elif step == "time":
        twins.ms += choose.choice([0, 1, choose.randint(0, 3000), choose.randint(0, 30_000), LEASE_MS])
    elif step == "day" and choose.random() < 0.2:
        twins.day = choose.choice([0, 1, 1, 8, 12, 30])
    return step


@pytest.mark.parametrize("seed", range(4))
async def test_redis_limiter_decides_as_the_ledger(server: RedisServer, seed: int) -> None:
    choose = random.Random(seed)
    requests: list[ReservationRequest] = []
    seen = set()
    async with AsyncExitStack() as stack:
        (limiter,) = await stack.enter_async_context(gateways_of(server, now=lambda: twins.now))
        twins = Twins(limiter, DailyUse())
        if seed % 2:
            # As after years of use: the drained total wraps around soon.
            near = 2**52 - 1_000_000
            for subject in "ab":
                names = {"requests.gone": near, "tokens.gone": near, "requests.at": 0, "tokens.at": 0}
                server.admin().hset(f"serval:{{k:{subject}}}:buckets", mapping=names)
        for _ in range(500):
            seen.add(await take_random_step(twins, requests, choose))
        if seed % 2:
            assert int(server.admin().hget("serval:{k:a}:buckets", "tokens.gone") or near) < near
        for (subject, day), used in twins.daily._used.items():
            assert used_in_redis(server, subject, day) == used
    refusals = {"requests", "tokens", "concurrency", "budget", "budget_reserved"}
    assert seen >= refusals | {"admitted", "end", "renew", "time", "day"}


async def test_redis_limiter_gateways_share_one_limit(server: RedisServer) -> None:
    limits = Limits(requests_per_minute=100, tokens_per_minute=10**6)
    async with gateways_of(server, 4) as gateways:
        decisions = await asyncio.gather(
            *(gateway.reserve(request(limits)) for _ in range(100) for gateway in gateways)
        )
    assert sum(decision.refused is None for decision in decisions) == 100


async def test_redis_limiter_uses_rediss_clock(server: RedisServer) -> None:
    first_day = int(time.time() // DAY_S)
    limits = Limits(requests_per_minute=6000, tokens_per_minute=1000, tokens_per_day=10**6)
    async with gateways_of(server, now=None) as (gateway,):
        assert (await gateway.reserve(request(limits, 1000))).refused is None
        assert (await gateway.reserve(request(limits, 1000))).refused == "tokens"
        # 17 tokens drain each second.
        await until_admitted(gateway, limits, 10)
    (day,) = server.admin().hkeys("serval:{k:a}:days")
    assert first_day <= int(day) <= time.time() // DAY_S


@pytest.mark.parametrize("subject", ["3f9a0c51d2e4", "oidc:some one", "}", "{x}{y}"])
async def test_redis_keys_of_a_subject_expire_and_share_a_slot(server: RedisServer, subject: str) -> None:
    limits = Limits(10, 100, 3, 1000)
    async with gateways_of(server) as (gateway,):
        one, two = request(limits, 5, subject, cost=1), request(limits, 5, subject, requests=2)
        await gateway.reserve(one)
        await gateway.reserve(two)
        gateway.renew([two])
        # A larger debit takes longer to drain.
        gateway.settle(one, requests=1, tokens=500)
    keys = [key for key in server.admin().keys("*") if key != "serval:probe"]
    assert len(keys) == 6
    assert len({key_slot(key.encode()) for key in keys}) == 1
    lives = {key.rpartition(":")[2]: server.admin().pttl(key) for key in keys}
    assert all(life > LEASE_MS for life in lives.values())
    # As long as its content needs to drain.
    assert lives["buckets"] > 300_000


async def test_redis_limiter_renews_all_requests_of_a_call(server: RedisServer) -> None:
    moment = frozen()
    limits = Limits(concurrent_requests=4)
    async with gateways_of(server, now=lambda: moment) as (gateway,):
        kept, lost = request(limits, requests=2), request(limits, requests=2)
        for one in (kept, lost):
            assert (await gateway.reserve(one)).refused is None
        moment = Moment(1000 + LEASE_MS // 2, float(NOON))
        gateway.renew([kept])
        assert (await gateway.reserve(request(limits))).refused == "concurrency"
        moment = Moment(1000 + LEASE_MS, float(NOON))
        assert (await gateway.reserve(request(limits, requests=3))).refused == "concurrency"
        assert (await gateway.reserve(request(limits, requests=2))).refused is None


async def test_gate_over_redis_settles_requests_and_tokens(server: RedisServer) -> None:
    identity = Identity(frozenset(), key_id="a", limits=KeyLimits(100, 1000, 8, 5000))
    async with gateways_of(server) as (limiter,):
        gate = Gate(limiter, defaults=Limits(), lease_s=60, reserved_completion_tokens=10)
        for used in (4, 0):
            record = RequestRecord(request_id=f"r{used}", method="POST", route="/")
            async with gate.reservation(identity, record, requests=5) as reservation:
                await reservation.reserve_tokens(prompt_tokens=100, completion_limit=50)
                assert (await limiter.reserve(request(Limits(concurrent_requests=8), requests=4))).refused
                if used:
                    reservation.settle(requests=used, tokens=170)
            decision = await limiter.reserve(request(Limits(100, 1000, 8, 5000), tokens=0, requests=0))
        # The second call never reached the engine, and counts once.
        assert (decision.requests_remaining, decision.tokens_remaining) == (100 - 4 - 1, 1000 - 170)
        assert decision.day_remaining == 5000 - 170
        assert (await limiter.reserve(request(Limits(concurrent_requests=8), requests=8))).refused is None


async def test_redis_keeps_only_the_days_that_a_budget_counts(server: RedisServer) -> None:
    moment = frozen()
    async with gateways_of(server, now=lambda: moment) as (gateway,):
        for day in (0, 2, 3, 40):
            moment = Moment(1000, float(NOON + day * DAY_S))
            old = request(Limits(tokens_per_day=10), 7, cost=1)
            assert (await gateway.reserve(old)).refused is None
    assert sorted(server.admin().hkeys("serval:{k:a}:days")) == ["20003", "20040"]
    books = [f"{name}:{day}" for name in ("cost", "held", "held_cost") for day in (20003, 20040)]
    assert sorted(server.admin().hkeys("serval:{k:a}:books")) == books


async def test_redis_limiter_cancelled_reserve_leaves_nothing_reserved(server: RedisServer) -> None:
    limits = Limits(requests_per_minute=3, concurrent_requests=1)
    async with gateways_of(server) as (gateway,):
        for pauses in range(10):
            reserving = asyncio.create_task(gateway.reserve(request(limits)))
            for _ in range(pauses):
                await asyncio.sleep(0)
            await cancel_and_wait(reserving)
        await until_admitted(gateway, limits)
        assert (await gateway.reserve(request(limits))).requests_remaining == 2


async def test_redis_limiter_stays_reachable_in_a_burst(server: RedisServer) -> None:
    limits = Limits(requests_per_minute=500)
    async with gateways_of(server) as (gateway,):
        decisions = await asyncio.gather(*(gateway.reserve(request(limits)) for _ in range(1000)))
    assert sum(decision.refused is None for decision in decisions) == 500


async def test_redis_limiter_reloads_flushed_scripts(server: RedisServer) -> None:
    limits = Limits(requests_per_minute=10, concurrent_requests=1)
    async with gateways_of(server) as (gateway,):
        one = request(limits)
        await gateway.reserve(one)
        server.admin().script_flush()
        assert (await gateway.reserve(request(limits))).refused == "concurrency"
        server.admin().script_flush()
        gateway.settle(one, requests=1, tokens=1)
        assert (await gateway.reserve(request(limits))).requests_remaining == 8


async def test_redis_limiter_reconnects_to_a_restarted_redis(server: RedisServer) -> None:
    limits = Limits(concurrent_requests=10**6)
    async with gateways_of(server) as (gateway,):
        await gateway.reserve(request(limits))
        server.kill()
        await until_unreachable(gateway, limits)
        server.start()
        assert (await until_reachable(gateway, limits)).refused is None


async def test_redis_limiter_hang_is_unreachable_and_its_reservation_is_refunded(
    server: RedisServer,
) -> None:
    limits = Limits(requests_per_minute=100, concurrent_requests=2)
    async with gateways_of(server, timeout_s=1) as (gateway,):
        running = request(limits)
        assert (await gateway.reserve(running)).refused is None
        server.freeze()
        timed_out = request(limits)
        with pytest.raises(LedgerUnreachableError):
            await gateway.reserve(timed_out)
        # No other request waits for the timeout.
        for _ in range(100):
            with pytest.raises(LedgerUnreachableError):
                await gateway.reserve(request(limits))
        gateway.settle(running, requests=1, tokens=1)
        server.thaw()
        await until_reachable(gateway, limits)
        # The settlement made meanwhile has arrived, too.
        await until_admitted(gateway, limits)


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    ],
    ids=["a read-only replica", "no memory left"],
)
async def test_redis_limiter_unwritable_redis_is_unreachable(
    server: RedisServer, broken: tuple[str, ...], mended: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(requests_per_minute=10**6)
    async with gateways_of(server) as (gateway,):
        assert (await gateway.reserve(request(limits))).requests_remaining == 10**6 - 1
        server.admin().execute_command(*broken)
        with caplog.at_level(logging.WARNING):
            await until_unreachable(gateway, limits)
            for _ in range(10):
                await asyncio.sleep(0.05)
                with pytest.raises(LedgerUnreachableError):
                    await gateway.reserve(request(limits))
        assert len([record for record in caplog.records if "Redis cannot keep" in record.message]) == 1
        server.admin().execute_command(*mended)
        # Unanswered reservations were not counted, or were refunded.
        assert (await until_reachable(gateway, limits)).requests_remaining == 10**6 - 2


class Clock:
    """Both clocks of a `FallbackLimiter`."""

    def __init__(self) -> None:
        self.s = 1000.0

    def moment(self) -> Moment:
        return Moment(int(self.s * 1000), float(NOON))

    def __call__(self) -> float:
        return self.s


async def test_fallback_counts_use_that_was_admitted_while_redis_was_away(server: RedisServer) -> None:
    clock = Clock()
    budget = Limits(budgets=(Budget("tokens", "week", 100), Budget("cost", "month", 1000)))
    async with gateways_of(server) as (gateway,):
        limiter = FallbackLimiter(
            gateway,
            Ledger(DailyUse(), lease_ms=LEASE_MS),
            share=1,
            grace_s=60,
            now=clock.moment,
            monotonic=clock,
        )
        server.kill()
        await until_unreachable(gateway, Limits())
        for used in (60, 30, 0):
            one = request(budget, 70, cost=700)
            assert (await limiter.reserve(one)).refused is None
            limiter.settle(one, requests=1, tokens=used, cost=10 * used)
            # A charge that is sent again counts once.
            gateway.charge(one, 20_000, tokens=used, cost=10 * used)
        server.start()
        await until_reachable(gateway, Limits())
        assert (await limiter.reserve(request(budget, 11))).refused == "budget"
        assert (await limiter.reserve(request(budget, 10, cost=101))).budget == 1
        assert used_in_redis(server, "a", 20_000) == Used(90, 900)


async def test_fallback_counts_once_what_redis_reserved_too_late(server: RedisServer) -> None:
    """Redis runs the reservation that was given up, its refund, and the charge of what was used instead."""
    budget = Limits(budgets=(Budget("tokens", "week", 100), Budget("cost", "month", 1000)))
    async with gateways_of(server, timeout_s=0.5) as (gateway,):
        local = Ledger(DailyUse(), lease_ms=LEASE_MS)
        limiter = FallbackLimiter(gateway, local, share=1, grace_s=60, now=frozen)
        # Loads the script.
        await until_reachable(gateway, Limits())
        server.freeze()
        one = request(budget, 70, cost=700)
        assert (await limiter.reserve(one)).refused is None
        limiter.settle(one, requests=1, tokens=30, cost=300)
        server.thaw()
        await until_reachable(gateway, Limits())
        assert used_in_redis(server, "a", 20_000) == Used(30, 300)


class SlowRedis:
    """A Redis that runs every call at once, and answers each a hundredth of a second after the one before."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    def pipeline(self, *, transaction: bool) -> "SlowPipeline":
        return SlowPipeline(self._redis.pipeline(transaction=transaction))


class SlowPipeline:
    """A pipeline of `SlowRedis`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def evalsha(self, *call: Any) -> None:
        self._pipeline.evalsha(*call)

    async def execute(self, *, raise_on_error: bool) -> list[Any]:
        calls = len(self._pipeline)
        answers = await self._pipeline.execute(raise_on_error=raise_on_error)
        await asyncio.sleep(0.01 * calls)
        return answers


async def test_redis_limiter_sends_what_a_slow_redis_can_answer_in_time(server: RedisServer) -> None:
    """Eighty charges take 0.8 s, and the timeout is 0.5 s: they arrive in smaller batches, each once."""
    budget = Limits(budgets=(Budget("tokens", "week", 10**6),))
    slow = SlowRedis(open_redis(server.url, timeout_s=30))
    limiter = RedisLimiter(cast("Redis", slow), lease_ms=LEASE_MS, timeout_s=0.5, now=frozen)
    for _ in range(80):
        limiter.charge(request(budget), 20_000, tokens=3, cost=5)
    async with limiter.lifespan():
        # Answered behind them, so all have arrived and have left the queue.
        await until_reachable(limiter, Limits())
    assert used_in_redis(server, "a", 20_000) == Used(240, 400)


async def test_redis_limiter_that_stops_sends_what_was_used_while_redis_was_away(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_limiter, "_LAST_ENDS_S", 60)
    budget = Limits(budgets=(Budget("tokens", "week", 10**6),))
    async with gateways_of(server) as (limiter,):
        server.kill()
        await until_unreachable(limiter, budget)
        limiter.charge(request(budget), 20_000, tokens=3, cost=5)
        server.start()
    assert used_in_redis(server, "a", 20_000) == Used(3, 5)


async def test_redis_limiter_that_stops_while_redis_is_away_says_what_is_lost(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_limiter, "_LAST_ENDS_S", 0.1)
    async with gateways_of(server) as (limiter,):
        server.kill()
        await until_unreachable(limiter, Limits())
        limiter.charge(request(Limits()), 20_000, tokens=3, cost=5)
    assert "use was not counted in Redis" in caplog.messages


async def test_fallback_without_redis_allows_its_share_and_budgets_for_the_grace_period(
    server: RedisServer,
) -> None:
    clock = Clock()
    rate, budget = Limits(requests_per_minute=10), Limits(tokens_per_day=100)
    async with gateways_of(server) as (gateway,):
        limiter = FallbackLimiter(
            gateway,
            Ledger(DailyUse(), lease_ms=LEASE_MS),
            share=0.5,
            grace_s=60,
            now=clock.moment,
            monotonic=clock,
        )
        assert (await limiter.reserve(request(rate))).requests_remaining == 9
        server.kill()
        await until_unreachable(gateway, rate)
        assert [(await limiter.reserve(request(rate))).refused for _ in range(6)] == [None] * 5 + ["requests"]
        assert (await limiter.reserve(request(budget))).refused is None
        clock.s += 61
        with pytest.raises(LimitsUnavailableError):
            await limiter.reserve(request(budget))
        server.start()
        await until_reachable(gateway, Limits())
        assert (await limiter.reserve(request(budget))).refused is None


SECRET = "p4ssw0rd"


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{SECRET}@host",
        f"redis://:a/{SECRET}@host",
        f"redis://:{SECRET}@host:port",
        f"redis://:{SECRET}@host?shards=2",
        "",
    ],
)
def test_open_gate_invalid_redis_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"redis://") as caught:
        open_gate(Settings(limits_url=url), None)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_open_gate_without_the_redis_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"serval-llm\[redis\]"):
        open_gate(Settings(limits_url="redis://host"), None)
