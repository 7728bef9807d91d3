"""The modelled engine: which requests run, what each step takes and gives. Time is counted, not waited for.

After SGLang's scheduler: new prompts first, in chunks; otherwise one token for each running request; when
memory runs out the newest request goes back to the queue, its cache is lost, and its prompt with all it had
said so far is computed again.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from serval_load.stand_in.costs import Costs
from serval_load.stand_in.prefix_cache import PrefixCache


@dataclass(eq=False)
class Job:
    """One request in the engine."""

    rid: str
    prompt: Sequence[int]
    tokens: int
    # Tokens given so far; prompt tokens that are computed; those that the prefix cache had at first.
    generated: int = 0
    computed: int = 0
    cached: int = 0
    retractions: int = 0

    @property
    def length(self) -> int:
        """Tokens of its sequence so far."""
        return len(self.prompt) + self.generated


@dataclass(frozen=True)
class Step:
    """One step: how long it took, who got a token by it, and who cannot go on for want of memory."""

    seconds: float
    advanced: tuple[Job, ...] = ()
    failed: tuple[Job, ...] = ()


@dataclass
class Scheduler:
    """See the module. `clock` is the sum of all steps so far."""

    costs: Costs
    clock: float = 0.0
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cache = PrefixCache(block_tokens=self.costs.block_tokens)
        # The job whose prompt is being computed in chunks.
        self._partial: Job | None = None

    @property
    def used_tokens(self) -> int:
        """Memory that running requests hold; what the prefix cache keeps beside them can be had any time."""
        partial = 0 if self._partial is None else self._partial.computed
        return sum(job.length for job in self.running) + partial

    @property
    def waiting_count(self) -> int:
        """Requests that have no token yet."""
        return len(self.waiting) + (self._partial is not None)

    def add(self, job: Job) -> bool:
        """Queue a request; False if the queue is full."""
        if len(self.waiting) >= self.costs.max_waiting:
            return False
        self.waiting.append(job)
        return True

    def remove(self, job: Job) -> None:
        """Forget a request, wherever it is. What it computed stays in the prefix cache."""
        if job in self.running:
            self.running.remove(job)
            self._cache.insert(job.prompt)
        elif job is self._partial:
            self._partial = None
        elif job in self.waiting:
            self.waiting.remove(job)

    def step(self) -> Step | None:
        """Do the next step; None if there is nothing to do."""
        done = self._prefill()
        if done is None:
            done = self._decode()
        if done is not None:
            self.clock += done.seconds
            self._cache.evict(self.costs.kv_tokens - self.used_tokens)
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
                # Room for the whole prompt and its first token, or it waits.
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
            self._cache.insert(job.prompt)
            started.append(job)
        if not taken:
            return None
        for job in started:
            self._advance(job)
        return Step(self.costs.prefill_s(taken), advanced=tuple(started))

    def _admit(self, job: Job) -> None:
        job.computed = self._cache.match(job.prompt)
        if not job.generated:
            job.cached = job.computed

    def _decode(self) -> Step | None:
        failed: list[Job] = []
        while self.running and self.used_tokens + len(self.running) > self.costs.kv_tokens:
            job = self.running.pop()
            job.computed = 0
            job.retractions += 1
            # Alone and still too long: it would come back for ever.
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
