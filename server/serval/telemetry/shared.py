"""Metrics of several workers: each keeps its values in its own files, and any of them can add up all."""

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead


def share_metrics(index: int) -> None:
    """Keep the values of this process in files, as worker `index`. Call it before any metric is made.

    The files' names hold the index, not the process id: a restarted worker continues where the previous one
    stopped, and no files are left behind. The folder is PROMETHEUS_MULTIPROC_DIR, which
    `child_environment` sets.
    """
    values.ValueClass = values.MultiProcessValue(lambda: index)  # type: ignore[no-untyped-call]


def forget_live_values(index: int, directory: Path) -> None:
    """Drop values that are valid only while worker `index` runs, such as its requests in flight."""
    mark_process_dead(index, str(directory))  # type: ignore[no-untyped-call]


def exposition_of_all(directory: Path) -> bytes:
    """Return the sum over all workers in Prometheus's text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
