"""How many batches of each kind a scheduler has launched, as a Prometheus counter beside SGLang's own.

Tells whether decode steps really ride in prefill batches, whether ranks idle, and what `serval checkpoint
verify` has covered.
"""

from functools import cache
from typing import Any

BATCHES_METRIC = "serval_engine_batches_total"


def count_batch(kind: str) -> None:
    """Count one batch; ``kind`` is the name of its forward mode in small letters."""
    _counter().labels(kind=kind).inc()


@cache
def _counter() -> Any:
    # Not before the first batch: SGLang names the folder that its processes share values in, and
    # prometheus_client looks for it once, on import.
    from prometheus_client import Counter

    return Counter(
        BATCHES_METRIC.removesuffix("_total"), "Batches launched, by forward mode.", labelnames=["kind"]
    )
