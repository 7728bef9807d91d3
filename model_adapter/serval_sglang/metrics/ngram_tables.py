"""Prometheus gauges of the place and size of the n-gram tables, and of the bytes that a token reads."""

from functools import cache
from typing import Any

from torch import Tensor


def report_tables(values: Tensor, scales: Tensor | None, *, rows_per_token: int, place: str) -> None:
    """Set the gauges of this process; a scrape adds up the ranks of one machine.

    `values` [rows, width] are the rows of all tables, in the memory that `place` names ("device" or "host");
    `scales` [rows] belong to codes. A token reads `rows_per_token` rows, one of each table.
    """
    stored, per_token = _gauges()
    row_bytes = values.shape[1] * values.element_size() + (0 if scales is None else scales.element_size())
    stored.labels(place=place).set(values.nbytes)
    if scales is not None:
        # Scales are always on the device; with the tables there too, both make one figure.
        on_device = scales.nbytes + (values.nbytes if place == "device" else 0)
        stored.labels(place="device").set(on_device)
    per_token.set(rows_per_token * row_bytes)


@cache
def _gauges() -> tuple[Any, Any]:
    # Imported late: prometheus_client looks for the folder in which SGLang's processes share values only
    # once, on import, and SGLang sets it late.
    from prometheus_client import Gauge

    stored = Gauge(
        "serval_engine_ngram_table_bytes",
        "Memory of the n-gram tables, all ranks together, by place: device, or pinned host memory.",
        labelnames=["place"],
        multiprocess_mode="livesum",
    )
    per_token = Gauge(
        "serval_engine_ngram_read_bytes",
        "Bytes of the n-gram tables read for one token, all ranks together.",
        multiprocess_mode="livesum",
    )
    return stored, per_token
