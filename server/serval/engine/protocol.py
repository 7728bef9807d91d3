"""Interface to an engine. `SglangEngine` implements it; tests may use another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from msgspec import Struct

from serval.caller.priority import Priority
from serval.chat.prompt_parts import PromptParts
from serval.engine.readiness import StopReason

EngineFinish = Literal["stop", "length"]


class Bootstrap(Struct, frozen=True):
    """Meeting point of a pair's engines for one request: the prefill engine's address, and a room."""

    host: str
    port: int
    room: int


class GenerateRequest(Struct, frozen=True):
    """One completion to generate.

    `request_id` is the gateway's own and of fixed length: the engine matches ids to abort by prefix.
    """

    request_id: str
    input_ids: Sequence[int]
    sampling: Mapping[str, Any]
    # None: no log-probabilities; k: those of the token and of the k most likely tokens.
    top_logprobs: int | None = None
    # With those of the prompt's tokens. The engine repeats them with each event.
    prompt_logprobs: bool = False
    # W3C Trace Context of the trace that the request belongs to.
    traceparent: str | None = None
    # Tenants share neither turns in the queue nor cached prefixes.
    tenant: str | None = None
    priority: Priority = "default"
    # Structure of the prompt, for the choice of an engine; None: unknown.
    parts: PromptParts | None = None
    # Data-parallel rank of the engine that has to run it; None: any.
    rank: int | None = None
    # Meeting point of a request to one half of a pair; for the decode engine also the rank of the other.
    bootstrap: Bootstrap | None = None
    prefill_rank: int | None = None


class TokenLogprob(Struct, frozen=True, kw_only=True):
    """Log-probability of one token, and of its most likely alternatives.

    `logprob` is None for a prompt's first token, which nothing comes before.
    """

    token_id: int
    text: str
    logprob: float | None
    # Bytes that the token adds to the answer's text; None if unknown. The engine does not report them.
    data: bytes | None = None
    top: tuple["TokenLogprob", ...] = ()


# A Struct: one is made for each token, and it costs a tenth as much as a frozen dataclass.
class GenerationDelta(Struct, frozen=True, kw_only=True):
    """Output since the previous delta. Counts are totals so far; the last delta has `finish` set.

    `prompt_logprobs` are in the first delta, if the request asked for them. `end_logprob` is that of the
    token that ended the answer and is not part of it.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    finish: EngineFinish | None = None
    # Stop string at which the answer was cut: the model had not ended its turn. `text` ends before it.
    stop_string: str | None = None
    # Ids of the new tokens, without the one that ended the turn; None if the engine does not report them.
    # They are ahead of `text` while it ends inside a character.
    token_ids: list[int] | None = None
    # Log-probabilities of the new tokens, without the one that ended the turn.
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    end_logprob: TokenLogprob | None = None


@dataclass(frozen=True)
class EngineInfo:
    """Properties that the engine reports. Lengths are in tokens."""

    model_path: str
    # Prompt and completion together.
    context_length: int
    # Longest prompt, which is below the context length if the KV cache is small.
    max_prompt_tokens: int
    # Requests it runs at once; None if it does not report that.
    max_running_requests: int | None = None
    architectures: tuple[str, ...] = ()
    # Tokens that its KV cache holds, of all ranks; None if it does not report that.
    kv_tokens: int | None = None
    # Name of the weights that the engine was started with; None without one.
    checkpoint: str | None = None


class RankLoad(Struct, frozen=True):
    """Load of one data-parallel rank, by the engine's own names."""

    dp_rank: int = 0
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    num_waiting_uncached_tokens: int = 0
    token_usage: float = 0.0
    max_total_num_tokens: int = 0
    # Since the start: prompt tokens computed, and microseconds spent on them.
    total_prefill_uncached_tokens: int = 0
    total_prefill_busy_us: int = 0


@dataclass(frozen=True)
class EngineLoadReport:
    """Load of the engine: requests waiting in it, and the share of its KV cache that is in use."""

    waiting: int
    kv_use: float


class DeltaSink(Protocol):
    """Consumer of an answer. Deltas are sent straight from the socket's callback, without waking a task."""

    def send(self, delta: GenerationDelta) -> bool:
        """Consume a delta. Return False to apply backpressure: nothing more is sent before `ready` returns.

        An exception ends the answer.
        """
        ...

    async def ready(self) -> None:
        """Wait until the sink can consume more."""
        ...


class Engine(Protocol):
    """An engine that completes token ids, as seen by the endpoints."""

    async def generate(self, request: GenerateRequest, sink: DeltaSink) -> None:
        """Send all deltas to `sink`, up to one with `finish` set.

        Cancellation aborts the request in the engine. Raises an `ApiError`.
        """
        ...

    async def is_ready(self) -> bool:
        """Return True if the engine accepts requests now."""
        ...


class ManagedEngine(Engine, Protocol):
    """An engine as seen by the gateway's management."""

    async def info(self) -> EngineInfo:
        """Fetch the engine's properties. Raises an `ApiError`."""
        ...

    async def loads(self) -> Sequence[EngineLoadReport]:
        """Fetch the engine's load, or that of each place that is ready. Raises an `ApiError`."""
        ...

    def watch_breaker(self, note: Callable[[bool], None]) -> None:
        """Call `note` with True when the circuit breaker opens, and with False when it closes."""
        ...

    def watch_stops(self, note: Callable[[StopReason], None]) -> None:
        """Call `note` when an engine that was ready no longer is."""
        ...

    def interrupt(self) -> None:
        """End all running requests with `ShuttingDownError`."""
        ...
