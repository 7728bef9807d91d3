"""Facts about one request, for metrics, log and trace. They never hold a prompt, an answer or a key."""

from bisect import bisect_left
from typing import Final, Literal

from msgspec import Struct, field

from serval.telemetry.stopwatch import Stopwatch

# Reason for not admitting a valid request. A closed set, as it is a label.
Rejection = Literal[
    "requests", "tokens", "concurrency", "budget", "budget_reserved", "too_large", "limits_unavailable"
]

# Upper bounds of `RequestRecord.token_gaps`, in seconds. Its last count is for longer gaps.
TOKEN_GAP_BOUNDS: Final = (
    0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 300.0, 600.0,
)  # fmt: skip


# A Struct: one is made for each request, and it costs a third as much as a dataclass.
class RequestRecord(Struct, kw_only=True):
    """Filled in while the request is served, and read when it has ended.

    Times are in seconds; points in time are `time.perf_counter`'s.
    """

    request_id: str
    method: str
    route: str
    client_request_id: str | None = None
    # W3C Trace Context of this request's span, if it is traced.
    traceparent: str | None = None
    engine_request_id: str | None = None
    # With several engines: the place that was sent the request last, and the version of its engine.
    place: str | None = None
    engine_version: str | None = None
    key_id: str | None = None
    # Account of an accepted caller.
    subject: str | None = None
    # Set once the usage of the request is counted.
    is_counted: bool = False
    clock: Stopwatch = field(default_factory=Stopwatch)
    status: int = 0
    stream: bool = False
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    # By the prices in force, in parts of the currency; see `COST_UNIT` in `serval.caller.budgets`.
    cost: int = 0
    first_token_s: float | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    rejection: Rejection | None = None
    client_gone: bool = False
    tool_calls_complete: int = 0
    tool_calls_truncated: int = 0
    tool_calls_invalid: int = 0
    # Number of gaps between the events of a streamed answer up to each bound, and the sum of all gaps.
    token_gaps: list[int] | None = None
    token_gaps_s: float = 0.0
    last_token: float = 0.0

    def elapsed_s(self) -> float:
        """Time since the request came in."""
        return self.clock.elapsed_s()

    def add_tokens(self, now: float) -> None:
        """Note the arrival of one token, or of several together, at `now`."""
        if self.first_token_s is None:
            self.first_token_s = now - self.clock.started
            if self.stream:
                self.token_gaps = [0] * (len(TOKEN_GAP_BOUNDS) + 1)
        elif self.token_gaps is not None:
            gap_s = now - self.last_token
            self.token_gaps[bisect_left(TOKEN_GAP_BOUNDS, gap_s)] += 1
            self.token_gaps_s += gap_s
        self.last_token = now
