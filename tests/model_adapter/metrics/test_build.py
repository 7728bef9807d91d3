"""The gauges of the engine's build name its versions."""

import importlib.metadata
import platform
import time

from prometheus_client import REGISTRY

from serval_sglang.metrics.build import report_build


def test_report_build_names_the_versions_and_the_start() -> None:
    before = time.time()
    report_build()
    versions = {
        "version": importlib.metadata.version("serval-llm"),
        "sglang": importlib.metadata.version("sglang"),
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
    }
    assert REGISTRY.get_sample_value("serval_engine_build_info", versions) == 1
    started = REGISTRY.get_sample_value("serval_engine_start_time_seconds")
    assert started is not None
    assert before <= started <= time.time()
