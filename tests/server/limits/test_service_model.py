"""Any sequence of messages and failures of workers, against a ledger called directly with the same.

What the ledger itself does is `test_model.py`'s. Here it is what comes between: that nothing is lost, doubled
or out of order on the way, and that a worker's end frees what it held and nothing else.
"""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from serval.api.http import cancel_and_wait
from serval.caller.limits import Limits
from serval.limits.client import LimiterClient
from serval.limits.daily_use import DAY_S, DailyUse
from serval.limits.ledger import Ledger, Moment
from serval.limits.messages import Decision, ReservationRequest
from serval.limits.service import serve_ledger

MINUTE_MS = 60_000
LEASE_MS = 90_000
LIMITS = Limits(requests_per_minute=12, tokens_per_minute=200, concurrent_requests=6, tokens_per_day=1000)
NOON = 20_000 * DAY_S + DAY_S // 2
NUMBERS = count()
WORKERS = st.integers(0, 2)
TOKENS = st.integers(0, 100)
SUBJECTS = st.sampled_from("ab")


class ServiceLedger(Ledger):
    """The ledger of the service. It records the order of requests, and abandoned reservations."""

    def __init__(self) -> None:
        super().__init__(DailyUse(), lease_ms=LEASE_MS)
        self.received: list[ReservationRequest] = []
        self.abandoned: set[str] = set()

    def reserve(self, request: ReservationRequest, now: Moment) -> Decision:
        self.received.append(request)
        return super().reserve(request, now)

    def abandon(self, reservation_id: str) -> None:
        self.abandoned.add(reservation_id)
        super().abandon(reservation_id)


class Worker:
    """A worker's connection and its open reservations."""

    def __init__(self, socket: Path) -> None:
        self.limiter = LimiterClient(socket)
        self.open: dict[str, ReservationRequest] = {}
        self.stack = AsyncExitStack()

    async def start(self) -> "Worker":
        await self.stack.enter_async_context(self.limiter.lifespan())
        return self

    async def die(self, service_ledger: ServiceLedger) -> None:
        """Disconnect, and wait until the service has noticed."""
        await self.stack.aclose()
        await until(lambda: self.open.keys() <= service_ledger.abandoned)

    async def processed(self) -> None:
        """Wait until the service has processed everything sent so far: it answers in order."""
        nothing = ReservationRequest(f"nothing-{next(NUMBERS)}", "nobody", Limits(), 0)
        await self.limiter.reserve(nothing)
        self.limiter.settle(nothing, requests=0, tokens=0)


async def until(wanted: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if wanted():
            return
        await asyncio.sleep(0)
    raise AssertionError("the service does not notice it")


class ServiceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = uvloop.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.socket = Path(self.folder.name) / "limits.sock"
        self.ms = 0
        self.service_ledger = ServiceLedger()
        self.direct = Ledger(DailyUse(), lease_ms=LEASE_MS)
        self.serving = AsyncExitStack()
        self.workers: list[Worker] = []
        self.ended: list[tuple[int, ReservationRequest]] = []
        self.loop.run_until_complete(self.start())

    async def start(self) -> None:
        await self.serving.enter_async_context(
            serve_ledger(self.socket, self.service_ledger, now=lambda: self.now)
        )
        self.workers = [await Worker(self.socket).start() for _ in range(3)]

    @property
    def now(self) -> Moment:
        return Moment(self.ms, NOON + self.ms / 1000)

    def request(self, subject: str, tokens: int) -> ReservationRequest:
        return ReservationRequest(
            f"id-{next(NUMBERS)}",
            subject,
            LIMITS,
            tokens,
            optional_tokens=tokens // 2,
            requests=1 + tokens % 3,
        )

    @rule(requests=st.lists(st.tuples(WORKERS, SUBJECTS, TOKENS), min_size=1, max_size=12))
    def reserve_at_once(self, requests: Sequence[tuple[int, str, int]]) -> None:
        sent = [(self.workers[worker], self.request(subject, tokens)) for worker, subject, tokens in requests]

        async def reserve_all() -> list[Decision]:
            return await asyncio.gather(*(worker.limiter.reserve(request) for worker, request in sent))

        self.service_ledger.received.clear()
        decisions = self.loop.run_until_complete(reserve_all())
        by_id = {request.id: decision for (_, request), decision in zip(sent, decisions, strict=True)}
        assert {request.id for request in self.service_ledger.received} == by_id.keys()
        assert len(self.service_ledger.received) == len(by_id)
        # Requests of different workers come in any order, those of each worker in theirs.
        for request in self.service_ledger.received:
            assert self.direct.reserve(request, self.now) == by_id[request.id]
        for worker, request in sent:
            if by_id[request.id].refused is None:
                worker.open[request.id] = request

    @rule(worker=WORKERS, subject=SUBJECTS, tokens=TOKENS, turns=st.integers(0, 4))
    def cancel_while_reserving(self, worker: int, subject: str, tokens: int, turns: int) -> None:
        client, request = self.workers[worker], self.request(subject, tokens)

        async def cancel() -> Decision | None:
            task = asyncio.create_task(client.limiter.reserve(request))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                return task.result()
            await cancel_and_wait(task)
            await client.processed()
            return None

        decision = self.loop.run_until_complete(cancel())
        expected = self.direct.reserve(request, self.now) if request in self.service_ledger.received else None
        if decision is None:
            self.direct.settle(request.id, requests=0, tokens=0, now=self.now)
        else:
            assert decision == expected
            if decision.refused is None:
                client.open[request.id] = request

    @precondition(lambda self: any(worker.open for worker in self.workers))
    @rule(data=st.data(), used=st.one_of(st.none(), st.integers(0, 150)))
    def end(self, data: st.DataObject, used: int | None) -> None:
        running = [
            (place, request) for place, worker in enumerate(self.workers) for request in worker.open.values()
        ]
        place, request = data.draw(st.sampled_from(running))
        worker = self.workers[place]
        del worker.open[request.id]
        self.ended.append((place, request))
        if used is None:
            worker.limiter.settle(request, requests=0, tokens=0)
            self.direct.settle(request.id, requests=0, tokens=0, now=self.now)
        else:
            worker.limiter.settle(request, requests=1, tokens=used)
            self.direct.settle(request.id, requests=1, tokens=used, now=self.now)
        self.loop.run_until_complete(worker.processed())

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def end_again(self, data: st.DataObject) -> None:
        place, request = data.draw(st.sampled_from(self.ended))
        worker = self.workers[place]
        worker.limiter.settle(request, requests=1, tokens=0)
        worker.limiter.settle(request, requests=0, tokens=0)
        self.loop.run_until_complete(worker.processed())

    @rule(worker=WORKERS)
    def a_worker_dies(self, worker: int) -> None:
        dead = self.workers[worker]

        async def replace() -> None:
            await dead.die(self.service_ledger)
            self.workers[worker] = await Worker(self.socket).start()

        self.loop.run_until_complete(replace())
        for reservation_id in dead.open:
            self.direct.abandon(reservation_id)
        self.ended += [(worker, request) for request in dead.open.values()]

    @rule(worker=WORKERS)
    def renew(self, worker: int) -> None:
        renewing = self.workers[worker]
        renewing.limiter.renew(list(renewing.open.values()))
        self.direct.renew(renewing.open, self.now)
        self.loop.run_until_complete(renewing.processed())

    @rule(worker=WORKERS)
    def requests_outlive_their_lease(self, worker: int) -> None:
        """A case that random steps rarely reach: a slot that only a renewal keeps taken."""
        self.reserve_at_once([(worker, "a", 0)] * 6)
        self.time_passes(MINUTE_MS)
        self.renew(worker)
        self.time_passes(MINUTE_MS)
        self.reserve_at_once([(worker, "a", 0)] * 6)

    @rule(ms=st.one_of(st.integers(0, 3000), st.integers(0, 2 * MINUTE_MS)))
    def time_passes(self, ms: int) -> None:
        self.ms += ms

    def teardown(self) -> None:
        """Check that nothing is left when all workers are gone: no slot, no debit, no account."""

        async def stop() -> None:
            for worker in self.workers:
                await worker.die(self.service_ledger)
            await self.serving.aclose()

        self.loop.run_until_complete(stop())
        self.loop.close()
        self.folder.cleanup()
        # Requests may use more than they reserved.
        self.ms += 60 * MINUTE_MS
        self.service_ledger.sweep(self.now)
        assert self.service_ledger.subject_count == 0


TestService = ServiceMachine.TestCase
TestService.settings = settings(max_examples=40, stateful_step_count=25)
