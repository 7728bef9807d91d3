"""What is known about one request when it is over. Never holds a prompt, an answer or a key."""

import time
from bisect import bisect_left
from typing import Final, Literal

from msgspec import Struct, field

# Why a good request was not let in. A closed set: it is a label.
Rejection = Literal["requests", "tokens", "concurrency", "budget", "too_large", "limits_unavailable"]

# Upper bounds of the counts of `RequestRecord.token_gaps`, in seconds; the last count is of all above.
TOKEN_GAP_BOUNDS: Final = (
    0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


# A Struct, because one is made for each request: it costs a third of a dataclass.
class RequestRecord(Struct, kw_only=True):
    """Filled in while the request walks through; read once, by metrics, log and trace, when it is over.

    Times are in seconds, and `started` is `time.perf_counter`'s.
    """

    request_id: str
    method: str
    route: str
    client_request_id: str | None = None
    # Of this request's span, if there are traces.
    traceparent: str | None = None
    engine_request_id: str | None = None
    key_id: str | None = None
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    stream: bool = False
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    # How long the request waited to be let through to the engine; None: it was not made to wait.
    queue_s: float | None = None
    first_token_s: float | None = None
    # How long the gateway waited for the engine's answer, and for the client to send or take something.
    engine_s: float = 0.0
    client_s: float = 0.0
    # Since when the engine is being waited for, of `time.perf_counter`; None: it is not.
    engine_since: float | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    rejection: Rejection | None = None
    client_gone: bool = False
    tool_calls_complete: int = 0
    tool_calls_truncated: int = 0
    tool_calls_invalid: int = 0
    # Times between what the engine sends for a streamed answer: how many up to each bound, and their sum.
    token_gaps: list[int] | None = None
    token_gaps_s: float = 0.0
    last_token: float = 0.0

    def elapsed_s(self) -> float:
        """Seconds since the request came in."""
        return time.perf_counter() - self.started

    def gateway_s(self, elapsed_s: float) -> float:
        """Seconds, of `elapsed_s` in all, in which neither the engine nor the client was waited for."""
        return max(0.0, elapsed_s - self.engine_s - self.client_s - (self.queue_s or 0.0))

    def engine_waited_for(self, now: float) -> None:
        """Note that the engine is waited for no longer, from `now` on, of `time.perf_counter`."""
        if self.engine_since is not None:
            self.engine_s += now - self.engine_since
            self.engine_since = None

    def saw_token(self, now: float) -> None:
        """Note that a token, or some at once, came at `now`, of `time.perf_counter`."""
        if self.first_token_s is None:
            self.first_token_s = now - self.started
            if self.stream:
                self.token_gaps = [0] * (len(TOKEN_GAP_BOUNDS) + 1)
        elif self.token_gaps is not None:
            gap_s = now - self.last_token
            self.token_gaps[bisect_left(TOKEN_GAP_BOUNDS, gap_s)] += 1
            self.token_gaps_s += gap_s
        self.last_token = now
