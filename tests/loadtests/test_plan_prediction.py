"""`serval plan --trace` against the engine stand-in: the same workload on its own costs, in simulated time.

The stand-in's scheduler handles real token ids, blocks and single steps; the plan counts lengths by session.
A run over HTTP is in deploy/capacity.md.
"""

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from serval.workload_files import Call, Session, Workload
from serval.workload_files.lengths import lengths_of
from serval_load.stand_in.costs import Costs
from serval_load.stand_in.scheduler import Job, Scheduler
from serval_load.statistics import percentile
from serval_load.workloads.session_shapes import LogNormal, Shape, sessions
from serval_sglang.plan.prediction import Prediction, predict
from serval_sglang.plan.simulated_engine import EngineSizes
from serval_sglang.plan.step_costs import MeasuredCosts

TOLERANCE = 0.15
# Steps of a few milliseconds, as of the stand-in in `load --stand-in`.
COSTS = Costs(0.004, 0.0001, 0.002, 0.000005, kv_tokens=2_000_000)
SLOW = replace(COSTS, prefill_token_s=0.00005)


@dataclass(eq=False)
class StandInRun:
    """A workload on the stand-in's scheduler. `served`: arrival, first token, end and job of each request."""

    workload: Workload
    costs: Costs
    now: float = 0.0
    served: list[tuple[float, float, float, Job]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.costs)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.asked: dict[str, tuple[float, int, int, Callable[[], None]]] = {}
        self.first: dict[str, float] = {}
        self.children: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, one in enumerate(self.workload.sessions):
            if one.after is not None:
                self.children[one.after.conversation, one.after.turn].append(number)

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay_s, next(self.numbers), event))

    def run(self, agents: int | None) -> None:
        roots = [number for number, one in enumerate(self.workload.sessions) if one.after is None]
        waiting = iter(roots)

        def work() -> None:
            number = next(waiting, None)
            if number is not None:
                self.call(number, 0, work)

        if agents is None:
            for number in roots:
                start_s = self.workload.sessions[number].start_s
                self.after(start_s or 0.0, partial(self.call, number, 0, lambda: None))
        for _ in range(agents or 0):
            self.after(0.0, work)
        while True:
            # Arrivals keep their own times, though the scheduler sees them between steps.
            step_end = self.now
            while self.events and self.events[0][0] <= step_end:
                self.now, _, event = heapq.heappop(self.events)
                event()
            self.now = step_end
            step = self.scheduler.step()
            if step is not None:
                assert not step.failed
                self.now += step.seconds
                for job in step.advanced:
                    self.advanced(job)
            elif self.events:
                self.now = self.events[0][0]
            else:
                return

    def call(self, number: int, turn: int, then: Callable[[], None]) -> None:
        session = self.workload.sessions[number]
        if turn == len(session.calls):
            then()
            return

        def ask() -> None:
            call = session.calls[turn]
            shared = [part + place for part in session.prefix for place in range(int(session.piece_tokens))][
                : call.prompt
            ]
            own = [(number + 1) << 70 | place for place in range(call.prompt - len(shared))]
            job = Job(str(next(self.numbers)), shared + own, call.output)
            self.asked[job.rid] = (self.now, number, turn, then)
            assert self.scheduler.add(job)

        self.after(session.calls[turn].pause_s if turn else 0.0, ask)

    def advanced(self, job: Job) -> None:
        first = self.first.setdefault(job.rid, self.now)
        if job.generated < job.tokens:
            return
        at, number, turn, then = self.asked[job.rid]
        self.served.append((at, first, self.now, job))
        go_on = partial(self.call, number, turn + 1, then)
        left = self.children.get((number, turn), [])
        ended = itertools.count(1)

        def child_ended() -> None:
            if next(ended) == len(left):
                go_on()

        for child in left:
            self.call(child, 0, child_ended)
        if not left:
            go_on()


def planned(workload: Workload, costs: Costs, agents: int | None) -> Prediction:
    measured = MeasuredCosts(
        costs.decode_base_s, costs.decode_request_s, costs.prefill_base_s, costs.prefill_token_s
    )
    # The stand-in's cache holds prompts only: its answers are not the ids that come back in the next prompt.
    sizes = EngineSizes(
        costs.kv_tokens, costs.chunk_tokens, costs.max_running, costs.block_tokens, answers_cached=False
    )
    return predict(workload, measured, sizes, agents=agents)


def questions(count: int, *, per_s: float) -> Workload:
    source = random.Random(1)
    at = itertools.accumulate(source.expovariate(per_s) for _ in range(count))
    return Workload(
        tuple(
            Session(
                (Call(int(source.lognormvariate(6.5, 1)) + 1, int(source.lognormvariate(4.5, 0.8)) + 1),),
                start_s=start_s,
            )
            for start_s in at
        )
    )


def agents(count: int, *, seed: int = 1) -> Workload:
    """Sessions of the generator, at a fifth of their length and with pauses of a second or two."""
    shape = replace(
        Shape(subagent_share=0.5).scaled(0.2),
        turns=LogNormal(8, 0.5),
        tool_pause_s=LogNormal(0.5, 1.0),
        user_pause_s=LogNormal(2.0, 1.0),
        subagent_turns=LogNormal(3, 0.3),
    )
    found = lengths_of(sessions(shape, count, seed=seed))
    # Parts of the same length in all sessions, so that their token ids are the same too.
    return Workload(tuple(replace(one, piece_tokens=256.0) for one in found.sessions))


@pytest.mark.parametrize(
    ("workload", "costs", "at_once"),
    [
        pytest.param(questions(200, per_s=4), COSTS, None, id="few questions"),
        pytest.param(questions(200, per_s=60), COSTS, None, id="more questions than it serves"),
        pytest.param(agents(12), COSTS, 3, id="few agents"),
        pytest.param(agents(24), SLOW, 12, id="many agents"),
        pytest.param(agents(60), replace(SLOW, kv_tokens=80_000), 8, id="sessions outgrow the cache"),
    ],
)
def test_prediction_is_within_15_percent_of_the_stand_in(
    workload: Workload, costs: Costs, at_once: int | None
) -> None:
    run = StandInRun(workload, costs)
    run.run(at_once)
    found = planned(workload, costs, at_once)
    assert found.requests == len(run.served) > 60
    firsts = [first - at for at, first, _, _ in run.served]
    prompts = sum(len(job.prompt) for *_, job in run.served)
    speeds = [(job.tokens - 1) / (end - first) for _, first, end, job in run.served if end > first]
    assert found.first_s == pytest.approx([percentile(firsts, p) for p in (50, 90, 99)], rel=TOLERANCE)
    assert found.user_tokens_per_s == pytest.approx(percentile(speeds, 50), rel=TOLERANCE)
    assert found.seconds == pytest.approx(run.now, rel=TOLERANCE)
    answered = sum(job.tokens for *_, job in run.served)
    assert found.output_tokens_per_s == pytest.approx(answered / run.now, rel=TOLERANCE)
    cached = sum(job.cached for *_, job in run.served) / prompts
    assert found.cached_share == pytest.approx(cached, abs=0.05)
