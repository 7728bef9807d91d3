"""Prometheus gauges of the engine's build and start."""

import importlib.metadata
import platform
import time
from functools import cache
from typing import Any


def report_build() -> None:
    """Set the gauges of this process; the first of an engine's to do so counts as its start."""
    info, started = _gauges()
    info.labels(
        version=importlib.metadata.version("serval-llm"),
        sglang=importlib.metadata.version("sglang"),
        torch=importlib.metadata.version("torch"),
        python=platform.python_version(),
    ).set(1)
    started.set(time.time())


@cache
def _gauges() -> tuple[Any, Any]:
    # Imported late, as in ngram_tables.py.
    from prometheus_client import Gauge

    info = Gauge(
        "serval_engine_build_info",
        "1, with the versions of Serval, SGLang, torch and Python.",
        labelnames=["version", "sglang", "torch", "python"],
        multiprocess_mode="livemax",
    )
    started = Gauge(
        "serval_engine_start_time_seconds",
        "Time at which the model was built, before its weights were loaded, in seconds since 1970.",
        multiprocess_mode="livemin",
    )
    return info, started
