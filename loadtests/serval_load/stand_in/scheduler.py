"""Scheduler of the modelled engine, which counts time instead of waiting.

It follows SGLang's: new prompts run first, in chunks; otherwise each running request gets one token. When
memory runs out, the newest request is retracted to the queue without its cache, and its prompt and all tokens
generated so far are computed again.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from serval_load.stand_in.costs import Costs
from serval_load.stand_in.prefix_cache import PrefixCache


@dataclass(eq=False)
class Job:
    """A request in the engine."""

    rid: str
    prompt: Sequence[int]
    tokens: int
    # Prefixes are shared between requests of the same salt only.
    salt: str = ""
    # Hashes of the prompt's blocks, once it is queued.
    chain: Sequence[int] = ()
    # Tokens generated so far, prompt tokens computed, and prompt tokens found in the prefix cache at first.
    generated: int = 0
    computed: int = 0
    cached: int = 0
    retractions: int = 0

    @property
    def length(self) -> int:
        """Tokens of the sequence so far."""
        return len(self.prompt) + self.generated


@dataclass(frozen=True)
class Step:
    """Result of a step: its duration, the jobs that got a token, and those that ran out of memory."""

    seconds: float
    advanced: tuple[Job, ...] = ()
    failed: tuple[Job, ...] = ()


@dataclass
class Scheduler:
    """Queue and running batch; `clock` is the sum of all steps so far."""

    costs: Costs
    clock: float = 0.0
    # Prompt tokens computed so far, and the seconds spent on them.
    prefilled_tokens: int = 0
    prefilled_s: float = 0.0
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cache = PrefixCache(block_tokens=self.costs.block_tokens)
        # Job whose prompt is being computed in chunks.
        self._partial: Job | None = None

    @property
    def used_tokens(self) -> int:
        """Tokens of memory held by running requests, without the prefix cache, which can be evicted."""
        partial = 0 if self._partial is None else self._partial.computed
        return sum(job.length for job in self.running) + partial

    @property
    def _tokens_beside_cache(self) -> int:
        """Tokens of running requests that are not in the prefix cache; the blocks of their prompts are."""
        block = self.costs.block_tokens
        partial = 0 if self._partial is None else self._partial.computed
        return sum(job.length - len(job.prompt) // block * block for job in self.running) + partial

    @property
    def waiting_count(self) -> int:
        """Number of requests without a token yet."""
        return len(self.waiting) + (self._partial is not None)

    @property
    def waiting_uncached_tokens(self) -> int:
        """Prompt tokens of requests without a token yet that have to be computed."""
        partial = 0 if self._partial is None else self._partial.length - self._partial.computed
        return partial + sum(job.length - self._match(job, use=False) for job in self.waiting)

    def add(self, job: Job) -> bool:
        """Queue a request; return False if the queue is full."""
        if len(self.waiting) >= self.costs.max_waiting:
            return False
        job.chain = self._cache.chain(job.prompt, salt=job.salt)
        self.waiting.append(job)
        return True

    def _match(self, job: Job, *, use: bool = True) -> int:
        # The last token is always computed.
        return self._cache.match(job.chain[: (len(job.prompt) - 1) // self.costs.block_tokens], use=use)

    def remove(self, job: Job) -> None:
        """Remove a request, waiting or running. Its prompt stays in the prefix cache once computed."""
        if job in self.running:
            self.running.remove(job)
            self._cache.insert(job.chain)
        elif job is self._partial:
            self._partial = None
        elif job in self.waiting:
            self.waiting.remove(job)

    def step(self) -> Step | None:
        """Run the next step; return None if there is nothing to do."""
        done = self._prefill()
        if done is None:
            done = self._decode()
        if done is not None:
            self.clock += done.seconds
            self._cache.evict(self.costs.kv_tokens - self._tokens_beside_cache)
        return done

    def _prefill(self) -> Step | None:
        room = self.costs.chunk_tokens
        started: list[Job] = []
        taken = 0
        while room > 0 and len(self.running) < self.costs.max_running:
            job = self._partial or (self.waiting[0] if self.waiting else None)
            if job is None:
                break
            if job is not self._partial:
                if job.length + 1 > self.costs.kv_tokens:
                    self.waiting.popleft()
                    return Step(0.0, failed=(job,))
                # Wait until there is room for the whole prompt and its first token.
                if self.used_tokens + job.length + 1 > self.costs.kv_tokens:
                    break
                self.waiting.popleft()
                self._admit(job)
            fresh = min(job.length - job.computed, room)
            job.computed += fresh
            room -= fresh
            taken += fresh
            if job.computed < job.length:
                self._partial = job
                break
            self._partial = None
            self.running.append(job)
            self._cache.insert(job.chain)
            started.append(job)
        if not taken:
            return None
        for job in started:
            self._advance(job)
        seconds = self.costs.prefill_s(taken)
        self.prefilled_tokens += taken
        self.prefilled_s += seconds
        return Step(seconds, advanced=tuple(started))

    def _admit(self, job: Job) -> None:
        job.computed = self._match(job)
        if not job.generated:
            job.cached = job.computed

    def _decode(self) -> Step | None:
        failed: list[Job] = []
        while self.running and self.used_tokens + len(self.running) > self.costs.kv_tokens:
            job = self.running.pop()
            job.computed = 0
            job.retractions += 1
            # A job that is alone and still too long would be retracted for ever.
            if self.running:
                self.waiting.appendleft(job)
            else:
                failed.append(job)
        if not self.running:
            return Step(0.0, failed=tuple(failed)) if failed else None
        batch = tuple(self.running)
        seconds = self.costs.decode_s(len(batch))
        for job in batch:
            self._advance(job)
        return Step(seconds, advanced=batch, failed=tuple(failed))

    def _advance(self, job: Job) -> None:
        job.generated += 1
        if job.generated >= job.tokens:
            self.remove(job)
