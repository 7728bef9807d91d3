"""Check that Prometheus has scraped every metric that dashboards and rules query.

Used by tests and by the rehearsal.
"""

import asyncio
import re
import time
from dataclasses import dataclass

from serval_testkit.metric_names import dashboard_queries, scraped_metrics_needed
from serval_testkit.prometheus import Prometheus

# Metrics that appear only after an event that neither tests nor rehearsal cause.
AFTER_THE_EVENT = {"sglang:num_retracted_requests_total"}
# Metrics of engines that were started with --mtp-steps, which these were not.
WITH_DRAFTS = {
    "serval_engine_accepted_tokens_total",
    "serval_engine_draft_steps",
    "serval_engine_drafted_tokens_total",
    "serval_engine_verifications_total",
}
EMPTY_WHEN_ALL_IS_WELL = {
    "serval-overview / Firing alerts",
    "serval-engine / Draft steps",
    "serval-engine / Accepted drafts",
    "serval-overview / Failures by engine",
}
# Marks of dashboards that end soon after a change.
_MARKS = re.compile(r"/ (Settings read again|New version)")
# Metrics of gateways with several engines, and of exporters, neither of which run here.
_ELSEWHERE = re.compile(r"serval_place_|serval:place:|DCGM_|container_memory_")
_PAUSE_S = 1.0


@dataclass
class Missing:
    """Dashboard queries without data, by location, and metrics that were never scraped."""

    queries: dict[str, str]
    metrics: set[str]

    def __bool__(self) -> bool:
        return bool(self.queries or self.metrics)


def is_expected(place: str, query: str) -> bool:
    """Return True for a query that has data on a busy single engine."""
    # One query asks for several engines, or for the only one.
    elsewhere = _ELSEWHERE.search(query) and "serval_engine_up" not in query
    return place not in EMPTY_WHEN_ALL_IS_WELL and not _MARKS.search(place) and not elsewhere


async def missing_under_load(prometheus: Prometheus, *, wait_s: float) -> Missing:
    """Poll until nothing is missing, at most for `wait_s`; the caller has to produce the load."""
    missing = Missing(
        {query: place for place, query in dashboard_queries() if is_expected(place, query)},
        {name for name in scraped_metrics_needed() if not _ELSEWHERE.match(name)}
        - AFTER_THE_EVENT
        - WITH_DRAFTS,
    )
    deadline = time.monotonic() + wait_s
    while missing and time.monotonic() < deadline:
        await asyncio.sleep(_PAUSE_S)
        for query in list(missing.queries):
            if await asyncio.to_thread(prometheus.query, query):
                del missing.queries[query]
        missing.metrics -= await asyncio.to_thread(prometheus.metric_names)
    return missing
