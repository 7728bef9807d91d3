"""Prometheus metrics of one gateway application. Every label takes its values from a closed set."""

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serval.telemetry.record import RequestRecord
from serval.telemetry.shared import exposition_of_all

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
CLIENT_GONE = "499"


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self, shared: Path | None = None) -> None:
        """`shared`: the folder in which several processes keep their values, after `share_metrics`."""
        self._shared = shared
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "serval_requests_total",
            "Requests by route and HTTP status; 499: the client went away.",
            ["route", "status"],
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "serval_requests_in_flight",
            "Requests being worked on.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._duration = Histogram(
            "serval_request_duration_seconds",
            "Time from request to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "serval_time_to_first_token_seconds",
            "Time from request to the engine's first token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        tokens = Counter(
            "serval_tokens_total",
            "Tokens by kind: prompt, completion, cached (the part of the prompt found in the engine's"
            " cache).",
            ["kind"],
            registry=self._registry,
        )
        self._prompt_tokens = tokens.labels("prompt")
        self._completion_tokens = tokens.labels("completion")
        self._cached_tokens = tokens.labels("cached")
        calls = Counter(
            "serval_tool_calls_total",
            "Tool calls by outcome: complete, truncated (the answer's length ended it), invalid (not a JSON"
            " object).",
            ["outcome"],
            registry=self._registry,
        )
        self._calls_complete = calls.labels("complete")
        self._calls_truncated = calls.labels("truncated")
        self._calls_invalid = calls.labels("invalid")
        self._refused = Counter(
            "serval_refused_requests_total",
            "Requests refused before they were read: malformed, too slow, too large or too many.",
            ["reason"],
            registry=self._registry,
        )
        self._rejections = Counter(
            "serval_rejections_total",
            "Requests not let in, by the limit that kept them out: requests, tokens, concurrency, budget,"
            " too_large (it can never fit), limits_unavailable.",
            ["reason"],
            registry=self._registry,
        )
        self._engine_up = Gauge(
            "serval_engine_up",
            "1 if the engine took requests when this was asked.",
            registry=self._registry,
            multiprocess_mode="livemostrecent",
        )

    def request_started(self) -> None:
        """Count a request in."""
        self._in_flight.inc()

    def request_over(self, record: RequestRecord) -> None:
        """Count a request out, with all that is known about it."""
        self._in_flight.dec()
        self._requests.labels(record.route, CLIENT_GONE if record.client_gone else str(record.status)).inc()
        self._duration.labels(record.route).observe(record.elapsed_s())
        if record.rejection is not None:
            self._rejections.labels(record.rejection).inc()
        if record.first_token_s is not None:
            self._first_token.observe(record.first_token_s)
        self._prompt_tokens.inc(record.prompt_tokens)
        self._completion_tokens.inc(record.completion_tokens)
        self._cached_tokens.inc(record.cached_tokens)
        self._calls_complete.inc(record.tool_calls_complete)
        self._calls_truncated.inc(record.tool_calls_truncated)
        self._calls_invalid.inc(record.tool_calls_invalid)

    def request_refused(self, reason: str) -> None:
        """Count a request that the HTTP server answered itself; `reason` is the error's code."""
        self._refused.labels(reason).inc()

    def exposition(self, *, engine_up: bool) -> bytes:
        """The text Prometheus reads."""
        self._engine_up.set(engine_up)
        if self._shared is not None:
            return exposition_of_all(self._shared)
        return generate_latest(self._registry)
