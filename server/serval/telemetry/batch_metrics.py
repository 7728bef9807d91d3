"""Metrics of batches."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

_STATUSES = (
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled",
)  # fmt: skip
_OUTCOMES = ("completed", "failed", "retried")


class BatchMetrics:
    """Metrics of batches; they stay 0 where no batches are run."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lines = Counter(
            "serval_batch_lines_total",
            "Lines of batches that were run, by outcome: completed, failed (its error is the result), retried"
            " (it is run again later: a limit, or a failure of the engine).",
            ["outcome"],
            registry=registry,
        )
        for outcome in _OUTCOMES:
            self._lines.labels(outcome)
        self._batches = Gauge(
            "serval_batches",
            "Batches in the key database, by status; as this gateway last saw them, up to a minute ago.",
            ["status"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        for status in _STATUSES:
            self._batches.labels(status)

    def line_run(self, outcome: str) -> None:
        """Count a line that was run."""
        self._lines.labels(outcome).inc()

    def show_batches(self, counts: Mapping[str, int]) -> None:
        """Show the numbers of batches by status."""
        for status in _STATUSES:
            self._batches.labels(status).set(counts.get(status, 0))
