"""One engine in simulated time: SGLang's scheduler, counted in tokens, without any token.

The rules are SGLang 0.5.23's, which `serval_load.stand_in.scheduler` follows step by step with real prompts:

- New prompts run first, in steps of at most `chunk_tokens` new tokens; a longer prompt takes several.
  Otherwise each running request gets one token.
- A prompt is admitted once the KV cache has room for it beside all that runs. When running requests outgrow
  the cache, the newest goes back to the queue, and all its tokens are computed again.
- The cache keeps what was computed, and drops the tail of the session that was not used for longest.

Cached tokens are counted by session, not by block, and the parts of a system prompt that sessions share once.
"""

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from serval_sglang.plan.clock import Clock
from serval_sglang.plan.step_costs import StepCosts

_MOST_STEPS = 64


class _Shared(NamedTuple):
    """Key of a shared part in the cache, different from that of any session."""

    part: int


@dataclass(frozen=True, slots=True)
class EngineSizes:
    """Bounds of an engine in tokens and requests.

    - `block_tokens`: the cache finds whole blocks of so many tokens; SGLang's page size
    - `answers_cached`: the next turn finds the answer too, not only the prompt. The stand-in cannot
    """

    kv_tokens: int
    chunk_tokens: int
    max_running: int
    block_tokens: int = 1
    answers_cached: bool = True


@dataclass(eq=False, slots=True)
class Job:
    """A request. Lengths in tokens, times in seconds of the clock; `on_end` is called after its last token.

    - `logged`: tokens that the log says were cached; None to look into this engine's cache
    - `prefix`: parts of the prompt that sessions share, `piece_tokens` each; `session` owns the rest
    """

    session: Hashable
    prompt: int
    output: int
    arrived: float
    on_end: Callable[["Job"], None]
    logged: int | None = None
    prefix: tuple[int, ...] = ()
    piece_tokens: float = 0.0
    cached: int = 0
    # Cached tokens that the current computation began with.
    found: int = 0
    computed: int = 0
    generated: int = 0
    first_at: float = -1.0
    ended_at: float = -1.0
    failed: bool = False

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return self.prompt + self.generated

    @property
    def shared_tokens(self) -> int:
        """Tokens of the prompt that other sessions may have too."""
        return min(int(len(self.prefix) * self.piece_tokens), self.prompt)


@dataclass(frozen=True, slots=True)
class _Row:
    """Decode steps of one batch, simulated together; `begun` and `step_s` in seconds."""

    batch: Sequence[Job]
    begun: float
    step_s: float
    steps: int


@dataclass(eq=False)
class SimulatedEngine:
    """See the module."""

    clock: Clock
    costs: StepCosts
    sizes: EngineSizes
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    # Most requests that ran at once, and seconds spent in steps.
    most_running: int = 0
    busy_s: float = 0.0
    # Cached tokens of each session beside its shared parts, and of each shared part; oldest use first.
    _cache: OrderedDict[Hashable, int] = field(default_factory=OrderedDict)
    _cached_tokens: int = 0
    # Number of running requests with each shared part, and the tokens of all these parts.
    _held: Counter[Hashable] = field(default_factory=Counter)
    _held_tokens: int = 0
    # Tokens of running requests beside their shared parts.
    _own_tokens: int = 0
    _partial: Job | None = None
    _busy: bool = False
    # Decode steps that run one after the other, and the number of the latest `_after`.
    _row: _Row | None = None
    _latest: int = 0

    @property
    def used_tokens(self) -> int:
        """Tokens of running requests and of the prompt that is being computed; shared parts count once."""
        partial = 0 if self._partial is None else self._partial.computed - self._partial.found
        return self._own_tokens + self._held_tokens + partial

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of requests without a token yet."""
        partial = 0 if self._partial is None else self._partial.prompt - self._partial.computed
        return partial + sum(job.prompt - (job.logged or 0) for job in self.waiting)

    def add(self, job: Job) -> None:
        """Queue a request. It ends a row of decode steps with the one that runs."""
        self.waiting.append(job)
        row = self._row
        if row is not None:
            steps = max(math.ceil((self.clock.now - row.begun) / row.step_s), 1)
            if steps < row.steps:
                self._run_row(replace(row, steps=steps))
        elif not self._busy:
            # At this time, but after all that arrives at it.
            self._after(0.0, lambda: None)

    def _after(self, seconds: float, end: Callable[[], None]) -> None:
        """Be busy for so long, then call `end` and begin the next step. A later call takes its place."""
        self._busy = True
        self._latest += 1
        number = self._latest

        def done() -> None:
            if number == self._latest:
                end()
                self._evict()
                self._busy = False
                self._step()

        self.clock.after(seconds, done)

    def _step(self) -> None:
        if self._busy:
            return
        started: list[Job] = []
        tokens, pairs = self._prefill(started)
        if tokens:
            seconds = self.costs.prefill_s(tokens, pairs)
            self.busy_s += seconds
            self._after(seconds, lambda: self._start(started))
        elif self.running:
            self._decode()

    def _prefill(self, started: list[Job]) -> tuple[int, float]:
        """Compute as many prompt tokens as a step takes; return their number and that of attended pairs."""
        room, pairs = self.sizes.chunk_tokens, 0.0
        while room > 0 and len(self.running) + len(started) < self.sizes.max_running:
            job = self._partial or self._admitted()
            if job is None:
                break
            fresh = min(job.length - job.computed, room)
            pairs += fresh * (job.computed + fresh / 2)
            job.computed += fresh
            room -= fresh
            self._partial = job
            if job.computed == job.length:
                self._partial = None
                self._hold(job)
                # At once, as SGLang lets requests wait that would compute a prefix of one before them again.
                self._keep(job, job.prompt)
                started.append(job)
        return self.sizes.chunk_tokens - room, pairs

    def _admitted(self) -> Job | None:
        while self.waiting and self.waiting[0].length + 1 > self.sizes.kv_tokens:
            self._end(self.waiting.popleft(), failed=True)
        if not self.waiting:
            return None
        job = self.waiting[0]
        shared = sum(_Shared(part) in self._held for part in job.prefix) * job.piece_tokens
        if self.used_tokens + job.length - int(shared) + 1 > self.sizes.kv_tokens:
            return None
        self.waiting.popleft()
        found = self._found(job) if job.logged is None else job.logged
        found -= found % self.sizes.block_tokens
        # The last token is always computed.
        job.computed = job.found = min(found, job.length - 1)
        if not job.generated:
            job.cached = job.computed
        return job

    def _found(self, job: Job) -> int:
        for found, part in enumerate(map(_Shared, job.prefix)):
            if part not in self._cache:
                return int(found * job.piece_tokens)
            self._cache.move_to_end(part)
        own = self._cache.get(job.session, 0)
        if own:
            self._cache.move_to_end(job.session)
        return min(job.shared_tokens + own, job.length)

    def _start(self, started: list[Job]) -> None:
        self.running += started
        self.most_running = max(self.most_running, len(self.running))
        for job in started:
            if job.first_at < 0:
                job.first_at = self.clock.now
        self._advance(started, 1)

    def _decode(self) -> None:
        while self.running and self.used_tokens + len(self.running) > self.sizes.kv_tokens:
            job = self.running.pop()
            self._release(job)
            job.computed = 0
            if not self.running:
                self._end(job, failed=True)
                self._step()
                return
            self.waiting.appendleft(job)
        batch = list(self.running)
        step_s = self.costs.decode_s(len(batch), sum(job.length for job in batch))
        # Not many, because costs grow with the context.
        room = (self.sizes.kv_tokens - self.used_tokens) // len(batch)
        steps = max(min(_MOST_STEPS, room, *(job.output - job.generated for job in batch)), 1)
        self._run_row(_Row(batch, self.clock.now, step_s, steps))

    def _run_row(self, row: _Row) -> None:
        self._row = row
        until = row.begun + row.steps * row.step_s

        def end() -> None:
            self._row = None
            self.busy_s += until - row.begun
            self._advance(row.batch, row.steps)

        self._after(until - self.clock.now, end)

    def _advance(self, jobs: Sequence[Job], steps: int) -> None:
        ended = []
        for job in jobs:
            job.generated += steps
            self._own_tokens += steps
            if job.generated >= job.output:
                ended.append(job)
        for job in ended:
            self.running.remove(job)
            self._release(job)
            self._keep(job, job.length if self.sizes.answers_cached else job.prompt)
            self._end(job)

    def _end(self, job: Job, *, failed: bool = False) -> None:
        job.failed, job.ended_at = failed, self.clock.now
        job.on_end(job)

    def _keep(self, job: Job, tokens: int) -> None:
        """Put the first `tokens` of a request into the cache, the end first: it is the first to go."""
        if job.logged is not None:
            return
        self._put(job.session, max(tokens - job.shared_tokens, 0))
        for part in reversed(job.prefix):
            self._put(_Shared(part), int(job.piece_tokens))

    def _put(self, key: Hashable, tokens: int) -> None:
        self._cached_tokens += tokens - self._cache.get(key, 0)
        self._cache[key] = tokens
        self._cache.move_to_end(key)

    def _hold(self, job: Job) -> None:
        self._own_tokens += job.length - job.shared_tokens
        for part in map(_Shared, job.prefix):
            if part not in self._held:
                self._held_tokens += int(job.piece_tokens)
            self._held[part] += 1

    def _release(self, job: Job) -> None:
        self._own_tokens -= job.length - job.shared_tokens
        for part in map(_Shared, job.prefix):
            self._held[part] -= 1
            if not self._held[part]:
                del self._held[part]
                self._held_tokens -= int(job.piece_tokens)

    def _evict(self) -> None:
        """Shorten the entries unused for longest until all fits; those of running requests stay."""
        running = {job.session for job in self.running if job.logged is None}
        mine = sum(self._cache.get(session, 0) for session in running)
        excess = self._cached_tokens - mine + self.used_tokens - self._held_tokens - self.sizes.kv_tokens
        if excess <= 0:
            return
        if self._partial is not None:
            running.add(self._partial.session)
        shorter: list[tuple[Hashable, int]] = []
        for key, tokens in self._cache.items():
            if excess <= 0:
                break
            if key not in running and key not in self._held:
                shorter.append((key, max(tokens - excess, 0)))
                excess -= tokens
        for key, tokens in shorter:
            self._cached_tokens += tokens - self._cache[key]
            if tokens:
                self._cache[key] = tokens
            else:
                del self._cache[key]
