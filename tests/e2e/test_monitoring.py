"""A real Prometheus scrapes the real server under load: every query of the dashboards finds data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serval_testkit.metric_names import alerts, dashboard_queries, scraped_metrics_needed
from serval_testkit.operator_tools import SCRIPT, ToolsMissingError, fetch_operator_tools
from serval_testkit.processes import descendants
from serval_testkit.prometheus import Prometheus, answered, running_prometheus

pytestmark = pytest.mark.engine

# What appears only once it has happened.
AFTER_THE_EVENT = {"sglang:num_retracted_requests_total"}
EMPTY_WHEN_ALL_IS_WELL = {"serval-overview / Firing alerts"}
QUESTIONS = ["What is Serval?", "Hello", "What is the weather in Paris for the next 3 days?"]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def prometheus(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    try:
        tools = fetch_operator_tools()
    except ToolsMissingError as error:
        pytest.skip(f"{SCRIPT} could not fetch Prometheus (needs Debian, its mirror and PyPI): {error}")
    targets = {
        "serval-gateway": server.root_url.removeprefix("http://"),
        "serval-engine": engine_address(server.program.process.pid),
    }
    with running_prometheus(tools, tmp_path_factory.mktemp("prometheus") / "p", targets=targets) as running:
        yield running


def engine_address(serve_pid: int) -> str:
    """Where the engine listens, from its command line: `serval serve` picks a free port."""
    for pid in descendants(serve_pid):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:  # it ended while we looked
            continue
        if "serval_sglang.launch" in arguments:
            return f"127.0.0.1:{arguments[arguments.index('--port') + 1]}"
    raise AssertionError("no engine among the processes of `serval serve`")


def ask_all(server: Any) -> None:
    """Streamed answers and a tool call."""
    headers = {"authorization": f"Bearer {server.api_key}"}
    model = httpx.get(f"{server.base_url}/models", headers=headers).json()["data"][0]["id"]
    for question in QUESTIONS:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "tools": [TOOL],
            "stream": True,
            "temperature": 0,
        }
        url = f"{server.base_url}/chat/completions"
        response = httpx.post(url, content=json.dumps(body), headers=headers, timeout=120)
        assert "[DONE]" in response.text


async def test_every_metric_and_query_finds_data(server: Any, prometheus: Prometheus) -> None:
    # A rate needs a counter that grows between two scrapes, so there is load before and after the first one.
    ask_all(server)
    assert await answered(
        prometheus, 'count(up == 1) == 2 and sum(serval_requests_total{route=~"/v1/.*"}) > 0'
    )
    ask_all(server)
    without_data = []
    for place, query in dashboard_queries():
        if place not in EMPTY_WHEN_ALL_IS_WELL and not await answered(prometheus, query):
            without_data.append(f"{place}: {query}")
    assert without_data == []
    assert scraped_metrics_needed() - prometheus.metric_names() <= AFTER_THE_EVENT


async def test_no_alert_fires_on_a_healthy_server(prometheus: Prometheus) -> None:
    await answered(prometheus, "serval:requests:error_ratio_5m")
    firing = {sample["metric"]["alertname"] for sample in prometheus.query('ALERTS{alertstate="firing"}')}
    # On a small CPU first tokens may come late.
    assert {
        name for name in firing & set(alerts()) if "FirstToken" not in name and "InterToken" not in name
    } == set()
