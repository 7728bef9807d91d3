"""Metrics of several workers, added up: each keeps its values in files of its own, any of them reads all."""

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead


def share_metrics(index: int) -> None:
    """Keep the values of this process in files, as worker `index`. To be called before any metric is made.

    The files' names hold the index, not the process id: a worker that is started again goes on where the one
    before it was, and no files are left behind. The folder is PROMETHEUS_MULTIPROC_DIR, which
    `child_environment` sets.
    """
    values.ValueClass = values.MultiProcessValue(lambda: index)  # type: ignore[no-untyped-call]


def forget_live_values(index: int, directory: Path) -> None:
    """Drop what only held while worker `index` ran, such as its requests in flight."""
    mark_process_dead(index, str(directory))  # type: ignore[no-untyped-call]


def exposition_of_all(directory: Path) -> bytes:
    """The text Prometheus reads: the sum over all workers."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
