"""What the gateway needs of an engine. `SglangEngine` is the real one; tests may use another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from msgspec import Struct

from serval.caller.priority import Priority

EngineFinish = Literal["stop", "length"]


class GenerateRequest(Struct, frozen=True):
    """One completion to generate.

    `request_id` is ours and of fixed length: the engine's scheduler matches ids to abort by prefix.
    """

    request_id: str
    input_ids: list[int]
    sampling: Mapping[str, Any]
    # None: no log-probabilities; k: those of the token and of the k most likely ones.
    top_logprobs: int | None = None
    # The trace this is part of, as W3C Trace Context has it.
    traceparent: str | None = None
    # Whose it is: tenants share neither turns nor cached prefixes.
    tenant: str | None = None
    priority: Priority = "default"


class TokenLogprob(Struct, frozen=True, kw_only=True):
    """Log-probability of one output token, and of its most likely alternatives."""

    token_id: int
    text: str
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


# A Struct, because one is made for each token: it costs a tenth of a frozen dataclass.
class GenerationDelta(Struct, frozen=True, kw_only=True):
    """What came out since the last delta; the counts are totals so far. The last one has `finish` set."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    finish: EngineFinish | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class EngineInfo:
    """What the engine says about itself. Lengths are in tokens."""

    model_path: str
    # Prompt and completion together.
    context_length: int
    # Longest prompt: below the context when the KV cache is small.
    max_prompt_tokens: int
    # Requests it works on at once; None: it does not say.
    max_running_requests: int | None = None


@dataclass(frozen=True)
class EngineLoadReport:
    """How full the engine is: requests that wait in it, and the share of its KV cache that is in use."""

    waiting: int
    kv_use: float


class DeltaSink(Protocol):
    """Who an answer is for. It is handed over where it is read: no task wakes up for a delta."""

    def send(self, delta: GenerationDelta) -> bool:
        """Take a delta. False: no more before `ready` returns; the engine has to wait then too.

        What it raises ends the answer.
        """
        ...

    async def ready(self) -> None:
        """Wait until there may be more."""
        ...


class Engine(Protocol):
    """An engine that completes token ids, as the endpoints know it."""

    async def generate(self, request: GenerateRequest, sink: DeltaSink) -> None:
        """Have all deltas taken, up to one with `finish` set.

        Cancelled before that, it aborts the request in the engine. Raises an `ApiError`.
        """
        ...

    async def is_ready(self) -> bool:
        """Whether the engine takes requests now."""
        ...


class ManagedEngine(Engine, Protocol):
    """The same as the gateway's own management knows it."""

    async def info(self) -> EngineInfo:
        """Ask the engine what it serves. Raises an `ApiError`."""
        ...

    async def load(self) -> EngineLoadReport:
        """Ask the engine how full it is. Raises an `ApiError`."""
        ...

    def watch_breaker(self, note: Callable[[bool], None]) -> None:
        """Call `note` with True when requests begin to fail at once, and with False when that is over."""
        ...

    def interrupt(self) -> None:
        """End all requests that run, with `ShuttingDownError`."""
        ...
