"""Dashboards and alerts on a real Prometheus that scrapes the real server under load."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from serval_testkit.metric_names import alerts
from serval_testkit.operator_tools import SCRIPT, ToolsMissingError, fetch_operator_tools
from serval_testkit.processes import descendants
from serval_testkit.prometheus import Prometheus, running_prometheus
from serval_testkit.seen_by_prometheus import missing_under_load
from serval_testkit.weather_tool import WEATHER_TOOL

pytestmark = pytest.mark.engine

WAIT_S = 150
# An engine without a GPU leaves little CPU time for its metrics page.
SCRAPE_INTERVAL_S = 5
# Always fires, to prove that notifications arrive.
WATCHDOG = "ServalWatchdog"
QUESTIONS = ["What is Serval?", "Hello", "What is the weather in Paris for the next 3 days?"]


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
    folder = tmp_path_factory.mktemp("prometheus") / "p"
    with running_prometheus(tools, folder, targets=targets, interval_s=SCRAPE_INTERVAL_S) as running:
        yield running


def engine_address(serve_pid: int) -> str:
    """Address of the engine from its command line, because `serval serve` picks a free port."""
    for pid in descendants(serve_pid):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:  # the process has ended
            continue
        if "serval_sglang.launch" in arguments:
            return f"127.0.0.1:{arguments[arguments.index('--port') + 1]}"
    raise AssertionError("no engine among the processes of `serval serve`")


@asynccontextmanager
async def load(server: Any) -> AsyncIterator[None]:
    """Send streamed requests, tool calls and invalid requests in turn until the block ends."""

    async def ask_on_and_on() -> None:
        headers = {"authorization": f"Bearer {server.api_key}"}
        async with httpx.AsyncClient(base_url=server.base_url, headers=headers, timeout=120) as client:
            model = (await client.get("/models")).json()["data"][0]["id"]
            while True:
                for question in QUESTIONS:
                    body = {
                        "model": model,
                        "messages": [{"role": "user", "content": question}],
                        "tools": [WEATHER_TOOL],
                        "stream": True,
                        "temperature": 0,
                        # The demo model may ramble if it is shown a tool that the question does not need.
                        "max_completion_tokens": 48,
                    }
                    response = await client.post("/chat/completions", json=body)
                    assert response.text.endswith("data: [DONE]\n\n")
                assert (await client.get("/models", headers={"authorization": "x"})).status_code == 401
                await ask_without_http(server.root_url)

    asking = asyncio.create_task(ask_on_and_on())
    try:
        yield
        if asking.done():
            asking.result()
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


async def ask_without_http(url: str) -> None:
    """Send bytes that are not HTTP."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"not HTTP\r\n\r\n")
    await reader.read()
    writer.close()


async def test_metrics_and_queries_find_data(server: Any, prometheus: Prometheus) -> None:
    async with load(server):
        missing = await missing_under_load(prometheus, wait_s=WAIT_S)
    assert not missing, (missing, prometheus.scrape_errors())


async def test_alerts_are_silent_on_a_healthy_server(server: Any, prometheus: Prometheus) -> None:
    assert prometheus.query("serval:requests:error_ratio_5m")
    # On a small CPU tokens and timers may be late.
    late = {name for name in alerts() if re.search("FirstToken|InterToken|EventLoop", name)}
    deadline = time.monotonic() + WAIT_S
    async with load(server):
        # Alerts fire at once here, so one may fire until the engine's counters change between two scrapes.
        while unexpected := (firing(prometheus) & set(alerts())) - late - {WATCHDOG}:
            assert time.monotonic() < deadline, unexpected
            await asyncio.sleep(SCRAPE_INTERVAL_S)


def firing(prometheus: Prometheus) -> set[str]:
    return {sample["metric"]["alertname"] for sample in prometheus.query('ALERTS{alertstate="firing"}')}
