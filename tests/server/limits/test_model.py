"""Any sequence of requests, ends, lost clients and set clocks, against a model that only adds up.

The model records admitted requests, their times and their use. From these it derives what must never have
been admitted.
"""

import copy
from dataclasses import dataclass
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serval.caller.limits import Limits
from serval.limits.daily_use import DAY_S, DailyUse
from serval.limits.ledger import Ledger, Moment
from serval.limits.messages import ReservationRequest

MINUTE_MS = 60_000
# Longer than a bucket takes to drain, so that drained debits are settled too.
LEASE_MS = 90_000
LIMITS = Limits(requests_per_minute=6, tokens_per_minute=100, concurrent_requests=4, tokens_per_day=400)
NOON = 20_000 * DAY_S + DAY_S // 2


@dataclass
class Entry:
    """An admitted call. `counts`, its requests, and `tokens` are reserved at first, then used."""

    request: ReservationRequest
    at_ms: int
    day: int
    expires_ms: int
    tokens: int
    counts: int
    open: bool = True


class LimitsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(DailyUse(), lease_ms=LEASE_MS)
        self.ms = 0
        self.unix_s = float(NOON)
        self.entries: list[Entry] = []
        self.numbers = count()

    @property
    def now(self) -> Moment:
        return Moment(self.ms, self.unix_s)

    @property
    def running(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.open and entry.expires_ms > self.ms]

    @property
    def running_requests(self) -> int:
        return sum(entry.request.requests for entry in self.running)

    @rule(
        tokens=st.one_of(st.integers(0, 100), st.just(100)),
        optional=st.one_of(st.just(0), st.integers(0, 100)),
        requests=st.sampled_from([1, 1, 1, 2, 4]),
    )
    def reserve(self, tokens: int, optional: int = 0, requests: int = 1) -> None:
        optional = min(optional, tokens)
        request = ReservationRequest(
            f"id-{next(self.numbers)}", "a", LIMITS, tokens, optional_tokens=optional, requests=requests
        )
        before = copy.deepcopy(self.ledger)
        used = sum(entry.tokens for entry in self.entries if entry.day == self.now.day)
        held = sum(entry.tokens for entry in self.running if entry.day == self.now.day)
        wanted = max(tokens - optional, min(tokens, 400 - used))
        decision = self.ledger.reserve(request, self.now)
        if decision.refused is None:
            expires_ms = self.ms + LEASE_MS
            self.entries.append(Entry(request, self.ms, self.now.day, expires_ms, wanted, requests))
        elif decision.refused in ("requests", "tokens"):
            self.check_wait(before, request, decision.wait_ms, decision.refused)
        elif decision.refused == "concurrency":
            assert self.running_requests + requests > 4
        elif decision.refused == "budget":
            assert used - held + wanted > 400
        else:
            assert used - held + wanted <= 400 < used + wanted

    def check_wait(self, before: Ledger, request: ReservationRequest, wait_ms: int, refused: str) -> None:
        """Check that `wait_ms` is enough, and one millisecond less is not."""
        early, in_time = (
            copy.deepcopy(before).reserve(request, Moment(self.ms + ms, self.unix_s + ms / 1000))
            for ms in (wait_ms - 1, wait_ms)
        )
        assert early.refused is not None
        assert in_time.refused != refused

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.running))
        tokens = data.draw(st.one_of(st.just(0), st.integers(0, entry.tokens)))
        self.end_with(entry, data.draw(st.integers(0, entry.counts)), tokens)

    def end_with(self, entry: Entry, requests: int, tokens: int) -> None:
        self.ledger.settle(entry.request.id, requests=requests, tokens=tokens, now=self.now)
        entry.open = False
        entry.counts, entry.tokens = requests, tokens

    @rule()
    def an_old_request_ends_in_a_burst(self) -> None:
        """A case that random steps rarely reach: a refund of a debit that has drained."""
        self.reserve(100)
        self.time_passes(MINUTE_MS)
        self.reserve(100)
        if self.running:
            self.end_with(self.running[0], 1, 0)
        self.reserve(100)

    @precondition(lambda self: any(not entry.open for entry in self.entries))
    @rule(data=st.data())
    def end_again(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from([entry for entry in self.entries if not entry.open]))
        self.ledger.settle(entry.request.id, requests=1, tokens=0, now=self.now)
        self.ledger.settle(entry.request.id, requests=0, tokens=0, now=self.now)

    @rule(data=st.data())
    def renew_some(self, data: st.DataObject) -> None:
        chosen = [entry for entry in self.running if data.draw(st.booleans())]
        self.ledger.renew([entry.request.id for entry in chosen], self.now)
        for entry in chosen:
            entry.expires_ms = self.ms + LEASE_MS

    @rule(ms=st.one_of(st.just(MINUTE_MS), st.integers(0, 3000), st.integers(0, 2 * MINUTE_MS)))
    def time_passes(self, ms: int) -> None:
        self.ms += ms
        self.unix_s += ms / 1000

    @rule(step_s=st.sampled_from([-3600, 3600, -13 * 3600, 13 * 3600]))
    def the_clock_is_set(self, step_s: int) -> None:
        self.unix_s += step_s

    @rule()
    def sweep(self) -> None:
        self.ledger.sweep(self.now)

    @invariant()
    def never_more_than_a_bucket_and_what_drains(self) -> None:
        for last, final in enumerate(self.entries):
            counts = tokens = 0
            for first in reversed(self.entries[: last + 1]):
                counts += first.counts
                tokens += first.tokens
                allowed = 1 + (final.at_ms - first.at_ms) / MINUTE_MS
                assert counts <= 6 * allowed
                assert tokens <= 100 * allowed

    @invariant()
    def never_more_at_once(self) -> None:
        assert self.running_requests <= 4

    @invariant()
    def never_more_a_day(self) -> None:
        for day in {entry.day for entry in self.entries}:
            assert sum(entry.tokens for entry in self.entries if entry.day == day) <= 400

    def teardown(self) -> None:
        """Check that nothing is left when all has ended: no slot, no debit, no account."""
        for entry in self.running:
            self.ledger.settle(entry.request.id, requests=1, tokens=0, now=self.now)
        self.ms += MINUTE_MS
        self.ledger.sweep(self.now)
        assert self.ledger.subject_count == 0


TestLimits = LimitsMachine.TestCase
TestLimits.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
