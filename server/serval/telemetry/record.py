"""What is known about one request when it is over. Never holds a prompt, an answer or a key."""

import time
from dataclasses import dataclass, field
from typing import Literal

# Why a good request was not let in. A closed set: it is a label.
Rejection = Literal["requests", "tokens", "concurrency", "budget", "too_large", "limits_unavailable"]


@dataclass
class RequestRecord:
    """Filled in while the request walks through; read once, by metrics and log, when it is over."""

    request_id: str
    method: str
    route: str
    client_request_id: str | None = None
    key_id: str | None = None
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    stream: bool = False
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    first_token_s: float | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    rejection: Rejection | None = None
    client_gone: bool = False
    tool_calls_complete: int = 0
    tool_calls_truncated: int = 0
    tool_calls_invalid: int = 0

    def elapsed_s(self) -> float:
        """Seconds since the request came in."""
        return time.perf_counter() - self.started

    def saw_token(self) -> None:
        """Note the time of the first token; later calls do nothing."""
        if self.first_token_s is None:
            self.first_token_s = self.elapsed_s()
