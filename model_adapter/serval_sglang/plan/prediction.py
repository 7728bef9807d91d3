"""Prediction for a workload on simulated engines: first tokens, throughput, share of prompts in the cache.

A workload with arrivals is an open loop: requests come when the file says, however slow the engines are. One
without is a closed loop of `agents`, as `python -m serval_load load agentx` drives it: an agent works on one
session after the other, a turn begins `pause_s` after the answer before it, and an agent waits for its
subagents, which run beside each other. A session stays on the engine that had the fewest when it began, as
the gateway keeps conversations where they are.

Left out are drafts, the gateway's own time, and all that hinders an engine. Costs are those of
`plan.step_costs`, the scheduler's rules those of `plan.simulated_engine`. The result is held within 15 % of
the engine stand-in, which handles prompts token by token (tests/loadtests/test_plan_prediction.py).
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from serval.workload_files import Session, Workload
from serval_sglang.plan.clock import Clock
from serval_sglang.plan.simulated_engine import EngineSizes, Job, SimulatedEngine
from serval_sglang.plan.step_costs import StepCosts

PERCENTS = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Figures of a workload. Tuples hold the percentiles of `PERCENTS`, times are in seconds.

    - `failed`: requests longer than the KV cache
    - `user_tokens_per_s`: median over answers of tokens a second after the first token; NaN without any
    - `output_tokens_per_s`, `tokens_per_s`: of all engines together, the latter with prompts
    - `busy`: share of the time in which an engine ran steps
    - `slots`: most requests that one engine ran at once
    """

    requests: int
    failed: int
    seconds: float
    first_s: tuple[float, ...]
    user_tokens_per_s: float
    output_tokens_per_s: float
    tokens_per_s: float
    cached_share: float
    busy: float
    slots: int


def predict(
    workload: Workload,
    costs: StepCosts,
    sizes: EngineSizes,
    *,
    engines: int = 1,
    agents: int | None = None,
) -> Prediction:
    """Simulate the workload. `agents`: number of sessions at a time; None for the arrivals of the file.

    Raises `ValueError` if it has neither arrivals nor `agents`.
    """
    if agents is None and not workload.timed:
        raise ValueError("the file says nothing about arrivals; give the number of agents with --concurrency")
    run = _Run(workload.sessions, costs, sizes, engines)
    if agents is None:
        run.begin_as_logged()
    else:
        run.begin_agents(agents)
    run.clock.run()
    return run.prediction()


@dataclass(eq=False)
class _Run:
    sessions: Sequence[Session]
    costs: StepCosts
    sizes: EngineSizes
    count: int
    clock: Clock = field(default_factory=Clock)
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._engines = [SimulatedEngine(self.clock, self.costs, self.sizes) for _ in range(self.count)]
        self._at_work = [0] * self.count
        self._children: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, session in enumerate(self.sessions):
            if session.after is not None and session.calls:
                self._children[session.after.conversation, session.after.turn].append(number)

    def begin_as_logged(self) -> None:
        for number, session in enumerate(self.sessions):
            if session.after is None:
                self.clock.after(session.start_s or 0.0, partial(self._begin, number, _nothing))

    def begin_agents(self, agents: int) -> None:
        roots = deque(
            number for number, session in enumerate(self.sessions) if session.after is None and session.calls
        )

        def work() -> None:
            if roots:
                self._begin(roots.popleft(), work)

        for _ in range(agents):
            self.clock.after(0.0, work)

    def _begin(self, number: int, then: Callable[[], None]) -> None:
        """Run the session from its first call on, then call `then`."""
        place = min(
            range(self.count), key=lambda one: (self._at_work[one], self._engines[one].waiting_tokens)
        )
        self._at_work[place] += 1
        self._call(number, 0, place, then)

    def _call(self, number: int, turn: int, place: int, then: Callable[[], None]) -> None:
        session = self.sessions[number]
        if turn == len(session.calls):
            self._at_work[place] -= 1
            then()
            return
        call = session.calls[turn]

        def ask() -> None:
            job = Job(
                number, call.prompt, call.output, self.clock.now, ended,
                logged=call.cached, prefix=session.prefix, piece_tokens=session.piece_tokens,
            )  # fmt: skip
            self.jobs.append(job)
            self._engines[place].add(job)

        def ended(_: Job) -> None:
            self._children_then(number, turn, partial(self._call, number, turn + 1, place, then))

        self.clock.after(call.pause_s if turn else 0.0, ask)

    def _children_then(self, number: int, turn: int, then: Callable[[], None]) -> None:
        children = self._children.get((number, turn), [])
        left = len(children)
        if not left:
            then()

        def one_ended() -> None:
            nonlocal left
            left -= 1
            if not left:
                then()

        for child in children:
            self._begin(child, one_ended)

    def prediction(self) -> Prediction:
        served = [job for job in self.jobs if not job.failed]
        seconds = max((job.ended_at for job in served), default=0.0) or math.nan
        output = sum(job.output for job in served)
        prompts = sum(job.prompt for job in served)
        speeds = [
            (job.output - 1) / (job.ended_at - job.first_at) for job in served if job.ended_at > job.first_at
        ]
        return Prediction(
            requests=len(self.jobs),
            failed=len(self.jobs) - len(served),
            seconds=seconds,
            first_s=tuple(_percentile([job.first_at - job.arrived for job in served], p) for p in PERCENTS),
            user_tokens_per_s=_percentile(speeds, 50),
            output_tokens_per_s=output / seconds,
            tokens_per_s=(output + prompts) / seconds,
            cached_share=sum(job.cached for job in served) / prompts if prompts else 0.0,
            busy=sum(engine.busy_s for engine in self._engines) / seconds / self.count,
            slots=max(engine.most_running for engine in self._engines),
        )


def _nothing() -> None:
    """Follow the last call of a session of an open loop."""


def _percentile(values: Sequence[float], percent: float) -> float:
    """Smallest value that at least `percent` of `values` do not exceed; NaN without values."""
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]
