"""Prometheus counters of drafts, and a gauge of the steps in use.

SGLang's own are gauges of the last batches, and its rate is wrong while the number of steps changes.
"""

from collections import Counter as Tally
from collections.abc import Sequence
from functools import cache
from typing import Any


def count_drafts(steps: int, accepted: Sequence[int]) -> None:
    """Count one verification of `steps` drafts a request; `accepted` holds the right ones of each request."""
    passes, drafted, right, in_use = _metrics()
    in_use.set(steps)
    passes.inc(len(accepted))
    drafted.inc(steps * len(accepted))
    tally = Tally(accepted)
    for position in range(1, steps + 1):
        reached = sum(requests for count, requests in tally.items() if count >= position)
        right.labels(position=str(position)).inc(reached)


@cache
def _metrics() -> tuple[Any, Any, Any, Any]:
    # Imported late, as in batches.py.
    from prometheus_client import Counter, Gauge

    passes = Counter(
        "serval_engine_verifications_total",
        "Passes of a request with drafts enabled, those without a draft included; each gives a token more "
        "than drafts are accepted.",
    )
    drafted = Counter("serval_engine_drafted_tokens_total", "Tokens drafted.")
    right = Counter(
        "serval_engine_accepted_tokens_total", "Drafts accepted, by position.", labelnames=["position"]
    )
    in_use = Gauge(
        "serval_engine_draft_steps",
        "Tokens drafted at a time in the last pass; 0 while the engine decodes without drafts.",
        multiprocess_mode="mostrecent",
    )
    return passes, drafted, right, in_use
