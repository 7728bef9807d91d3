"""Metrics of each place that a gateway with several engines uses. Without several, no place has series.

Labels are names of discovery, of which there are only as many as engines. States, outcomes and reasons are
those of `serval.engine.place` and `serval.engine.placement`.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# The layer above owns these words; the test of the metrics compares them.
STATES = ("unknown", "loading", "ready", "draining", "failing", "mismatch")
REASONS = ("only", "home", "held", "idle", "room")
STOP_REASONS = ("told", "lost")


class PlaceMetrics:
    """Observer of a fleet's places."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._state = Gauge(
            "serval_place_state",
            "1 for the state that an engine (or one of its ranks) is in, with several engines: unknown,"
            " loading, ready, draining, failing, mismatch (it serves another model).",
            ["place", "state"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._stops = Counter(
            "serval_place_stops_total",
            "Times that a ready place no longer was: told (it said so first) or lost (it was not there).",
            ["place", "reason"],
            registry=registry,
        )
        self._info = Gauge(
            "serval_place_info",
            "1 for the version that the list of engines gives a place's engine; empty: none.",
            ["place", "version"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._weight = Gauge(
            "serval_place_weight",
            "Conversations that a place is the home of, beside the 1 of an ordinary one.",
            ["place"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._first_token = _first_token_histogram(registry)
        self._requests = Counter(
            "serval_place_requests_total",
            "Requests sent to a place, by outcome: finished, failed, unanswered (another may have been"
            " tried), cancelled.",
            ["place", "outcome"],
            registry=registry,
        )
        self._in_flight = Gauge(
            "serval_place_requests_in_flight",
            "Requests of this gateway at a place.",
            ["place"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._waiting = Gauge(
            "serval_place_waiting_seconds",
            "Seconds that a place needs to compute the prompt tokens that wait there, of all gateways.",
            ["place"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._prompt_tokens = Counter(
            "serval_place_prompt_tokens_total",
            "Prompt tokens of requests that a place began to answer: cached (found there) or computed.",
            ["place", "kind"],
            registry=registry,
        )
        self._chosen = Counter(
            "serval_place_choices_total",
            "Choices of a place by reason: home (by hash), held (most of the prompt is there), idle (it would"
            " have waited there), only (there is no other), room (its conversation found room there and not"
            " where it would have gone).",
            ["reason"],
            registry=registry,
        )
        # Children by label: looking them up in the metric costs more than counting.
        self._by_reason = {reason: self._chosen.labels(reason) for reason in REASONS}
        self._versions: dict[str, str] = {}

    def place_state(self, place: str, state: str | None) -> None:
        """See `PlaceObserver`."""
        if state != "ready":
            self._waiting.labels(place).set(0)
        for name in STATES:
            self._state.labels(place, name).set(name == state)
        # Begin at 0, so that the first one is an increase.
        for reason in STOP_REASONS:
            self._stops.labels(place, reason)

    def place_stopped(self, place: str, reason: str) -> None:
        """See `PlaceObserver`."""
        self._stops.labels(place, reason).inc()

    def place_described(self, place: str, *, version: str, weight: float) -> None:
        """See `PlaceObserver`."""
        self._weight.labels(place).set(weight)
        before = self._versions.get(place, version)
        if before != version:
            self._info.labels(place, before).set(0)
        self._versions[place] = version
        self._info.labels(place, version).set(1)

    def place_chosen(self, reason: str) -> None:
        """See `PlaceObserver`."""
        self._by_reason[reason].inc()

    def place_request_started(self, place: str) -> None:
        """See `PlaceObserver`."""
        self._in_flight.labels(place).inc()

    def place_request_ended(self, place: str, outcome: str) -> None:
        """See `PlaceObserver`."""
        self._in_flight.labels(place).dec()
        self._requests.labels(place, outcome).inc()

    def place_prompt(self, place: str, *, cached: int, computed: int) -> None:
        """See `PlaceObserver`."""
        self._prompt_tokens.labels(place, "cached").inc(cached)
        self._prompt_tokens.labels(place, "computed").inc(computed)

    def place_first_token(self, place: str, seconds: float) -> None:
        """See `PlaceObserver`."""
        self._first_token.labels(place).observe(seconds)

    def place_waiting(self, place: str, seconds: float) -> None:
        """See `PlaceObserver`."""
        self._waiting.labels(place).set(seconds)


def _first_token_histogram(registry: CollectorRegistry) -> Histogram:
    return Histogram(
        "serval_place_first_token_seconds",
        "Time from sending a request to a place until its first token, without the gateway's queue.",
        ["place"],
        buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
        registry=registry,
    )
