"""SGLang's metrics page as requested by Prometheus 2 and 3."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from sglang.srt.utils.common import add_prometheus_middleware
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serval_sglang.metrics.page import keep_names

OF_2 = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
OF_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8,text/plain;version=0.0.4;q=0.3"


@pytest.mark.parametrize("accept", [OF_2, OF_3, "text/plain", "*/*"])
def test_keep_names_serves_same_names_to_every_client(
    accept: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    registry = CollectorRegistry()
    Gauge("sglang:num_running_reqs", "x", registry=registry).set(1)
    # Replaces the values in files, which need a separate process.
    monkeypatch.setattr("prometheus_client.CollectorRegistry", lambda: registry)
    monkeypatch.setattr("prometheus_client.multiprocess.MultiProcessCollector", lambda _: None)
    app = Starlette()
    add_prometheus_middleware(app)
    keep_names(None, app)
    answer = TestClient(app).get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "\nsglang:num_running_reqs 1.0\n" in answer.text
