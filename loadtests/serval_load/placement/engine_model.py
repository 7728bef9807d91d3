"""One engine: a scheduler that computes prompts in chunks before it decodes, and a finite prefix cache."""

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from serval.engine.placement import BLOCK_TOKENS, PlacedPrompt


@dataclass(frozen=True)
class Speeds:
    """Assumed speeds and sizes of an engine: seconds, tokens."""

    prefill_per_s: float = 20_000.0
    prefill_base_s: float = 0.010
    chunk_tokens: int = 8192
    decode_base_s: float = 0.012
    decode_request_s: float = 0.00015
    kv_tokens: int = 1_000_000
    max_running: int = 256


class Clock:
    """Events in the order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Call `event` in `delay_s` seconds."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._numbers), event))

    def run(self, until_s: float) -> None:
        """Call all events up to a time."""
        while self._events and self._events[0][0] <= until_s:
            self.now, _, event = heapq.heappop(self._events)
            event()


# Clients of a key, whose numbers follow each other.
CLIENTS_A_KEY: Final = 3


@dataclass(eq=False)
class SimRequest:
    """A request. `prompt` has whole blocks only; `cached` and `first_at` are noted by the engine."""

    prompt: PlacedPrompt
    answer: int
    client: int
    at: float
    on_first: Callable[["SimRequest"], None]
    on_end: Callable[["SimRequest"], None]
    cached: int = 0
    first_at: float = -1.0
    computed: int = 0


@dataclass(frozen=True)
class SimLoad:
    """Load as `/v1/loads` reports it."""

    requests: int
    waiting_uncached_tokens: int
    kv_use: float


@dataclass(eq=False)
class SimEngine:
    """See the module."""

    clock: Clock
    speeds: Speeds
    # Prompt tokens computed so far.
    prefilled: int = 0
    _cache: OrderedDict[int, None] = field(default_factory=OrderedDict)
    # Blocks of running requests, which are not evicted.
    _pinned: Counter[int] = field(default_factory=Counter)
    _waiting: deque[SimRequest] = field(default_factory=deque)
    # Request whose prompt is being computed in chunks.
    _partial: SimRequest | None = None
    # By the number of decode steps at which they end.
    _running: list[tuple[int, int, SimRequest]] = field(default_factory=list)
    _decoded: int = 0
    _busy: bool = False
    _numbers: "count[int]" = field(default_factory=count)

    def add(self, request: SimRequest) -> None:
        """Queue a request."""
        self._waiting.append(request)
        if not self._busy:
            self._step()

    def load(self) -> SimLoad:
        """Return the load."""
        uncached = sum(r.prompt.tokens - self._match(r.prompt.blocks) * BLOCK_TOKENS for r in self._waiting)
        if self._partial is not None:
            uncached += self._partial.prompt.tokens - self._partial.computed
        waiting = len(self._waiting) + (self._partial is not None)
        return SimLoad(
            requests=waiting + len(self._running),
            waiting_uncached_tokens=uncached,
            kv_use=len(self._pinned) * BLOCK_TOKENS / self.speeds.kv_tokens,
        )

    def _match(self, blocks: Sequence[int]) -> int:
        found = next((n for n, block in enumerate(blocks) if block not in self._cache), len(blocks))
        return min(found, len(blocks) - 1)

    def _touch(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            self._cache[block] = None
            self._cache.move_to_end(block)

    def _evict(self) -> None:
        room = self.speeds.kv_tokens // BLOCK_TOKENS - len(self._running)
        for _ in range(len(self._cache)):
            if len(self._cache) <= room:
                return
            block, _ = self._cache.popitem(last=False)
            if block in self._pinned:
                self._cache[block] = None

    def _step(self) -> None:
        speeds = self.speeds
        room, spent_s = speeds.chunk_tokens, 0.0
        started: list[SimRequest] = []
        while room > 0 and (request := self._partial or self._admitted()) is not None:
            fresh = min(request.prompt.tokens - request.computed, room)
            # Attention makes later tokens of a prompt dearer.
            spent_s += fresh / speeds.prefill_per_s * (1 + (request.computed + fresh / 2) / 131_072)
            request.computed += fresh
            room -= fresh
            self.prefilled += fresh
            self._partial = request
            if request.computed == request.prompt.tokens:
                self._partial = None
                self._touch(request.prompt.blocks)
                started.append(request)
        if room < speeds.chunk_tokens:
            self._after(speeds.prefill_base_s + spent_s, lambda: self._start(started))
        elif self._running:
            steps = max(1, min(self._running[0][0] - self._decoded, 4))
            step_s = speeds.decode_base_s + speeds.decode_request_s * len(self._running)
            self._after(steps * step_s, lambda: self._decode(steps))

    def _after(self, seconds: float, end: Callable[[], None]) -> None:
        def done() -> None:
            self._busy = False
            end()
            if not self._busy:
                self._step()

        self._busy = True
        self.clock.after(seconds, done)

    def _admitted(self) -> SimRequest | None:
        """Take the next waiting request if the memory has room for it."""
        if not self._waiting or len(self._running) >= self.speeds.max_running:
            return None
        request = self._waiting[0]
        blocks = request.prompt.blocks
        new = sum(block not in self._pinned for block in blocks)
        if self._running and len(self._pinned) + new > self.speeds.kv_tokens // BLOCK_TOKENS:
            return None
        self._waiting.popleft()
        found = self._match(blocks)
        request.cached = request.computed = found * BLOCK_TOKENS
        self._pinned.update(blocks)
        self._touch(blocks[:found])
        return request

    def _start(self, started: Sequence[SimRequest]) -> None:
        for request in started:
            request.first_at = self.clock.now
            heapq.heappush(self._running, (self._decoded + request.answer - 1, next(self._numbers), request))
            request.on_first(request)
        self._evict()

    def _decode(self, steps: int) -> None:
        self._decoded += steps
        while self._running and self._running[0][0] <= self._decoded:
            _, _, request = heapq.heappop(self._running)
            for block in request.prompt.blocks:
                self._pinned[block] -= 1
                if not self._pinned[block]:
                    del self._pinned[block]
            request.on_end(request)
