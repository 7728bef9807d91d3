"""Metrics of the working set of conversations. Without `SERVAL_WORKING_SET` they stay at 0."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# The layer above owns these words; the test of the metrics compares them.
LEAVE_REASONS = ("silent", "displaced", "outgrown", "forgotten", "gone")
_WAITS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)


class ConversationMetrics:
    """Observer of the gate before the slots."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._in_set = Gauge(
            "serval_conversations_in_set",
            "Conversations that have room in the engines' KV caches.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._waiting = Gauge(
            "serval_conversations_waiting",
            "Requests that wait until there is room for their conversation.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._wait = Histogram(
            "serval_conversation_wait_seconds",
            "Time that admitted conversations waited for room; its count is the number of admissions.",
            buckets=_WAITS,
            registry=registry,
        )
        self._left = Counter(
            "serval_conversations_left_total",
            "Conversations that lost their room: silent (the agent was away for longer than usual, and"
            " another needed it), displaced (by one that had waited), outgrown (by one that grew), forgotten"
            " (too many are remembered), gone (with their engine).",
            ["reason"],
            registry=registry,
        )
        # Begin at 0, so that the first one is an increase.
        for reason in LEAVE_REASONS:
            self._left.labels(reason)

    def conversation_admitted(self, waited_s: float) -> None:
        """See `SetObserver`."""
        self._in_set.inc()
        self._wait.observe(waited_s)

    def conversation_left(self, reason: str) -> None:
        """See `SetObserver`."""
        self._in_set.dec()
        self._left.labels(reason).inc()

    def conversations_waiting(self, number: int) -> None:
        """See `GateObserver`."""
        self._waiting.set(number)
