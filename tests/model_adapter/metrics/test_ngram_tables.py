"""The gauges of the n-gram tables have the tensors' own sizes."""

import pytest
import torch
from prometheus_client import REGISTRY

from serval_sglang.layers.ngram_tables import NgramTables, TableStorage
from serval_sglang.metrics.ngram_tables import report_tables
from serval_sglang.settings import TablePlace

ROWS, WIDTH, TABLES = 40, 16, 4


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"serval_engine_ngram_{name}", labels)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("code", [None, torch.int8])
def test_report_tables_sets_gauges_from_tensors(place: TablePlace, code: torch.dtype | None) -> None:
    storage = TableStorage(place=place, code_dtype=code)
    tables = NgramTables(ROWS, WIDTH, storage, device=torch.device("cpu"))
    report_tables(tables.values, tables.scales, rows_per_token=TABLES, place=place)
    item = 1 if code is not None else torch.get_default_dtype().itemsize
    scales = 0 if code is None else 4
    assert gauge("read_bytes") == TABLES * (WIDTH * item + scales)
    if place == "device":
        assert gauge("table_bytes", place="device") == ROWS * (WIDTH * item + scales)
    else:
        assert gauge("table_bytes", place="host") == ROWS * WIDTH * item
        if scales:
            assert gauge("table_bytes", place="device") == ROWS * scales
