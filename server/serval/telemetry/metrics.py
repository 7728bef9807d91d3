"""Prometheus metrics of one gateway application. Every label takes its values from a closed set."""

import asyncio
from bisect import bisect_left
from pathlib import Path
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serval.caller.budgets import PERIODS, UNITS, Budget
from serval.caller.priority import PRIORITIES
from serval.errors import (
    AuthUnavailableError,
    EngineFailureError,
    EngineStreamBrokenError,
    KeyDatabaseError,
)
from serval.telemetry.batch_metrics import BatchMetrics
from serval.telemetry.build import build
from serval.telemetry.conversation_metrics import ConversationMetrics
from serval.telemetry.place_metrics import STOP_REASONS, PlaceMetrics
from serval.telemetry.recent_errors import RecentErrors
from serval.telemetry.record import TOKEN_GAP_BOUNDS, Rejection, RequestRecord
from serval.telemetry.shared import exposition_of_all
from serval.telemetry.stopwatch import GATEWAY

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Nothing ends a request that goes on: an answer of 131,072 tokens, ten a second, takes 3.6 hours. A first
# token may take as long as a request may wait and the engine be silent, 11 minutes by default.
_SECONDS = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 2400.0,
    4800.0, 14400.0,
)  # fmt: skip
_WAITS = (
    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
)  # fmt: skip
_SHORT = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
CLIENT_GONE = 499


class _Answers:
    """Latency and number of tokens, and outcomes of tool calls."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._first_token = Histogram(
            "serval_time_to_first_token_seconds",
            "Time from the request to the engine's first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._token_gaps = Histogram(
            "serval_inter_token_latency_seconds",
            "Time between arrivals of tokens of a streamed answer; tokens that arrive together count once.",
            buckets=TOKEN_GAP_BOUNDS,
            registry=registry,
        )
        tokens = Counter(
            "serval_tokens_total",
            "Tokens by kind: prompt, completion, cached (the part of the prompt found in the engine's"
            " cache).",
            ["kind"],
            registry=registry,
        )
        self._prompt_tokens = tokens.labels("prompt")
        self._completion_tokens = tokens.labels("completion")
        self._cached_tokens = tokens.labels("cached")
        calls = Counter(
            "serval_tool_calls_total",
            "Tool calls by outcome: complete, truncated (the answer's length ended it), invalid (not a JSON"
            " object).",
            ["outcome"],
            registry=registry,
        )
        self._calls_complete = calls.labels("complete")
        self._calls_truncated = calls.labels("truncated")
        self._calls_invalid = calls.labels("invalid")

    def add(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        if record.first_token_s is not None:
            _observe(self._first_token, record.first_token_s)
        if record.token_gaps is not None:
            _add_counts(self._token_gaps, record.token_gaps, record.token_gaps_s)
        if record.prompt_tokens:
            _add(self._prompt_tokens, record.prompt_tokens)
        if record.completion_tokens:
            _add(self._completion_tokens, record.completion_tokens)
        if record.cached_tokens:
            _add(self._cached_tokens, record.cached_tokens)
        if record.tool_calls_complete:
            self._calls_complete.inc(record.tool_calls_complete)
        if record.tool_calls_truncated:
            self._calls_truncated.inc(record.tool_calls_truncated)
        if record.tool_calls_invalid:
            self._calls_invalid.inc(record.tool_calls_invalid)


# Errors of engine, key database and identity provider, for which deploy/prometheus has alerts.
ALERTED_ERRORS: Final = (EngineFailureError, EngineStreamBrokenError, AuthUnavailableError, KeyDatabaseError)


class _Books:
    """Usage that is lost, and budgets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.dropped = Counter(
            "serval_usage_dropped_total",
            "Requests, and their tokens, that are missing in the usage of the key database: it was away for"
            " too long.",
            ["kind"],
            registry=registry,
        )
        for kind in ("requests", "tokens"):
            self.dropped.labels(kind)
        self.soft_limits = Counter(
            "serval_budget_soft_limits_total",
            "Budgets of keys and teams whose soft limit was reached, each once in its day, week or month.",
            ["unit", "period"],
            registry=registry,
        )
        for unit in UNITS:
            for period in PERIODS:
                self.soft_limits.labels(unit, period)


class _Refusals:
    """Requests that were refused or ended with an error, by reason."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.recent = RecentErrors()
        self._errors = Counter(
            "serval_errors_total",
            "Requests that ended with an error, by its code; internal_error: a defect of the gateway.",
            ["code"],
            registry=registry,
        )
        # Begin at 0, so that the first error is an increase for the alerts that ask for these codes.
        for error in ALERTED_ERRORS:
            self._errors.labels(error.default_code)
        self.refused = Counter(
            "serval_refused_requests_total",
            "Requests refused before they were read: malformed, too slow, too large or too many.",
            ["reason"],
            registry=registry,
        )
        self._rejections = Counter(
            "serval_rejections_total",
            "Requests refused by a limit, by reason: requests, tokens, concurrency, budget, budget_reserved"
            " (running requests hold the rest of the day's), too_large (it can never fit),"
            " limits_unavailable.",
            ["reason"],
            registry=registry,
        )
        # Begin at 0, so that the first rejection is an increase.
        for reason in get_args(Rejection):
            self._rejections.labels(reason)

    def add(self, record: RequestRecord) -> None:
        """Count a request that has ended, and keep its error."""
        if record.error_code is not None:
            self._errors.labels(record.error_code).inc()
            self.recent.note(record)
        if record.rejection is not None:
            self._rejections.labels(record.rejection).inc()


class _Queue:
    """Queue for the engine, and the engine's state."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.depth = Gauge(
            "serval_queue_depth",
            "Requests waiting in the gateway for the engine, by class.",
            ["class"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        for priority in PRIORITIES:
            self.depth.labels(priority)
        self.saturation = Gauge(
            "serval_engine_saturation",
            "Load of the engine relative to its high mark: 1 is saturated; 0 if it does not report its load.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.breaker = Gauge(
            "serval_engine_breaker_open",
            "1 while requests fail at once because the engine failed several times in a row.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.stops = Counter(
            "serval_engine_stops_total",
            "Times that a ready engine no longer was: told (it said so first) or lost (it was not there).",
            ["reason"],
            registry=registry,
        )
        # Begin at 0, so that the first one is an increase.
        for reason in STOP_REASONS:
            self.stops.labels(reason)


class _EventLoop:
    """Lag and number of tasks of the event loop, four times a second."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lag = Histogram(
            "serval_event_loop_lag_seconds",
            "Lateness of a timer that fires four times a second.",
            buckets=_SHORT,
            registry=registry,
        )
        self.tasks = Gauge(
            "serval_event_loop_tasks",
            "Tasks of the event loop; a number that grows without requests is a leak.",
            registry=registry,
            multiprocess_mode="livesum",
        )


class _Process:
    """The build that runs, when it started, and when it read its settings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        running = build()
        info = Gauge(
            "serval_build_info",
            "1, with the versions of Serval and Python, and the commit if it is known.",
            ["version", "commit", "python"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        info.labels(running.version, running.commit, running.python).set(1)
        started = Gauge(
            "serval_start_time_seconds",
            "Start of the gateway, in seconds since 1970; with workers, of the oldest.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        started.set_to_current_time()
        self.settings_read = Gauge(
            "serval_settings_read_time_seconds",
            "Time at which settings and keys were last read, in seconds since 1970.",
            registry=registry,
            multiprocess_mode="livemax",
        )


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self, shared: Path | None = None) -> None:
        """`shared`: folder in which several processes keep their values, after `share_metrics`."""
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
            "Requests in progress.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._duration = Histogram(
            "serval_request_duration_seconds",
            "Time from the request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._queue_wait = Histogram(
            "serval_queue_wait_seconds",
            "Time that requests waited in the gateway's queue for a slot of the engine.",
            buckets=_WAITS,
            registry=self._registry,
        )
        self._overhead = Histogram(
            "serval_gateway_overhead_seconds",
            "Time of a request spent in the gateway itself, waiting for neither queue, engine nor client.",
            ["route"],
            buckets=_SHORT,
            registry=self._registry,
        )
        self._worker_restarts = Counter(
            "serval_worker_restarts_total",
            "Worker processes that ended without being told to and were replaced.",
            registry=self._registry,
        )
        # Children by label: looking them up in the metric costs more than counting.
        self._counted: dict[tuple[str, int], Counter] = {}
        self._timed: dict[str, tuple[Histogram, Histogram]] = {}
        self._answers = _Answers(self._registry)
        self._refusals = _Refusals(self._registry)
        self._books = _Books(self._registry)
        self._queue = _Queue(self._registry)
        self._loop = _EventLoop(self._registry)
        self._process = _Process(self._registry)
        self.batches = BatchMetrics(self._registry)
        self.places = PlaceMetrics(self._registry)
        self.conversations = ConversationMetrics(self._registry)
        self._engine_up = Gauge(
            "serval_engine_up",
            "1 if the engine, or one of several, was ready at the time of the scrape.",
            registry=self._registry,
            multiprocess_mode="livemostrecent",
        )

    @property
    def recent_errors(self) -> RecentErrors:
        """The last errors of this process."""
        return self._refusals.recent

    def request_started(self) -> None:
        """Count a request as in flight."""
        _add(self._in_flight, 1)

    def request_over(self, record: RequestRecord) -> None:
        """Count a request that has ended, from its record."""
        _add(self._in_flight, -1)
        self._count(record.route, CLIENT_GONE if record.client_gone else record.status)
        self._time(record)
        self._answers.add(record)
        self._refusals.add(record)

    def _count(self, route: str, status: int) -> None:
        child = self._counted.get((route, status))
        if child is None:
            child = self._counted[route, status] = self._requests.labels(route, str(status))
        _add(child, 1)

    def _time(self, record: RequestRecord) -> None:
        children = self._timed.get(record.route)
        if children is None:
            children = self._duration.labels(record.route), self._overhead.labels(record.route)
            self._timed[record.route] = children
        duration, overhead = children
        clock = record.clock
        elapsed_s = record.elapsed_s()
        _observe(duration, elapsed_s)
        _observe(overhead, clock.seconds_in(GATEWAY, elapsed_s))
        queue_s = clock.queue_s(elapsed_s)
        if queue_s is not None:
            _observe(self._queue_wait, queue_s)

    def loop_was_late(self, seconds: float) -> None:
        """Record the lag of the event loop, and the number of its tasks."""
        self._loop.lag.observe(seconds)
        self._loop.tasks.set(len(asyncio.all_tasks()))

    def request_refused(self, reason: str) -> None:
        """Count a request that the HTTP server refused; `reason` is the error's code."""
        self._refusals.refused.labels(reason).inc()

    def queue_entered(self, priority: str) -> None:
        """Count a request into the queue."""
        self._queue.depth.labels(priority).inc()

    def queue_left(self, priority: str) -> None:
        """Count a request out of the queue."""
        self._queue.depth.labels(priority).dec()

    def engine_saturation(self, share: float) -> None:
        """Record the engine's saturation."""
        self._queue.saturation.set(share)

    def engine_breaker(self, is_open: bool) -> None:
        """Record the state of the circuit breaker."""
        self._queue.breaker.set(is_open)

    def usage_dropped(self, requests: int, tokens: int) -> None:
        """Count requests that are missing in the usage, and their tokens."""
        self._books.dropped.labels("requests").inc(requests)
        self._books.dropped.labels("tokens").inc(tokens)

    def soft_limit_reached(self, budget: Budget) -> None:
        """Count a budget whose soft limit was reached."""
        self._books.soft_limits.labels(budget.unit, budget.period).inc()

    def engine_stopped(self, reason: str) -> None:
        """Count an engine that was ready and no longer is; `reason` is told or lost."""
        self._queue.stops.labels(reason).inc()

    def settings_read(self) -> None:
        """Note that settings were read and are in force."""
        self._process.settings_read.set_to_current_time()

    def worker_restarted(self) -> None:
        """Count this process as a replacement of one that ended."""
        self._worker_restarts.inc()

    def exposition(self, *, engine_up: bool) -> bytes:
        """Return the metrics in Prometheus's text format."""
        self._engine_up.set(engine_up)
        if self._shared is not None:
            return exposition_of_all(self._shared)
        return generate_latest(self._registry)


# prometheus_client checks labels and exemplars with each call, which costs as much as the counting itself.
# These use its private members instead; see server/UPSTREAM.md.


def _add(metric: Counter | Gauge, amount: float) -> None:
    """Do what the metric's `inc` does."""
    metric._value.inc(amount)


def _observe(histogram: Histogram, value: float) -> None:
    """Do what the histogram's `observe` does."""
    histogram._buckets[bisect_left(histogram._upper_bounds, value)].inc(1)
    histogram._sum.inc(value)


def _add_counts(histogram: Histogram, counts: list[int], total: float) -> None:
    """Add observations that are already counted by bucket.

    prometheus_client has no public way to do so. Observing the gaps of 10,000 tokens one by one would block
    the event loop for as many microseconds.
    """
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(total)
