"""Prometheus counter of the batches that a scheduler has launched, by kind.

It shows whether decode steps are really mixed into prefill batches, whether ranks idle, and which kinds
`serval checkpoint verify` has covered.
"""

from functools import cache
from typing import Any

BATCHES_METRIC = "serval_engine_batches_total"


def count_batch(kind: str) -> None:
    """Count one batch; `kind` is its forward mode in lower case."""
    _counter().labels(kind=kind).inc()


@cache
def _counter() -> Any:
    # Imported with the first batch: prometheus_client looks for the folder in which SGLang's processes share
    # values only once, on import, and SGLang sets it late.
    from prometheus_client import Counter

    return Counter(
        BATCHES_METRIC.removesuffix("_total"), "Batches launched, by forward mode.", labelnames=["kind"]
    )
