"""Drawings of the dashboards from a real Prometheus that scrapes a gateway."""

import asyncio
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import serval
from serval_testkit.gateway import MODEL, running_gateway
from serval_testkit.metric_names import DASHBOARD_FILES, DEPLOY
from serval_testkit.operator_tools import OperatorTools
from serval_testkit.prometheus import Prometheus, answered, running_prometheus

SVG = "{http://www.w3.org/2000/svg}"


async def draw_all(prometheus: Prometheus, folder: Path) -> None:
    """Draw the last minute of Prometheus with the script."""
    script = DEPLOY / "grafana/draw_dashboards.py"
    process = await asyncio.create_subprocess_exec(sys.executable, script, prometheus.url, folder, "1")
    assert await asyncio.wait_for(process.wait(), 120) == 0


@pytest.fixture
async def pictures(tools: OperatorTools, tmp_path: Path) -> dict[str, ElementTree.Element]:
    """Drawings by name, after a few requests to a gateway; no engine is scraped."""
    async with running_gateway() as gateway:
        targets = {"serval-gateway": gateway.url.removeprefix("http://")}
        with running_prometheus(tools, tmp_path / "p", targets=targets) as prometheus:
            for _ in range(3):
                await gateway.post({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]})
                assert await answered(prometheus, "serval_tokens_total")
            assert await answered(prometheus, "sum(rate(serval_tokens_total[1m]))")
            await draw_all(prometheus, tmp_path)
    return parsed(tmp_path)


def parsed(folder: Path) -> dict[str, ElementTree.Element]:
    return {
        path.stem: ElementTree.parse(path).getroot()  # noqa: S314  # our own files
        for path in folder.glob("*.svg")
    }


async def test_dashboards_are_drawn(pictures: dict[str, ElementTree.Element]) -> None:
    assert set(pictures) == {path.stem for path in DASHBOARD_FILES}
    texts = {text.text for text in pictures["serval-gateway"].iter(f"{SVG}text")}
    assert {"Requests by route", "In flight", "Engine ready"} <= texts
    assert len(list(pictures["serval-gateway"].iter(f"{SVG}polyline"))) > 5
    overview = {text.text for text in pictures["serval-overview"].iter(f"{SVG}text")}
    # A table's column, and a row of it.
    assert {"version", serval.__version__} <= overview
    green = "#5cb85c"
    assert [rect for rect in pictures["serval-overview"].iter(f"{SVG}rect") if rect.get("fill") == green]
    heat = [rect.get("fill-opacity") for rect in pictures["serval-gateway"].iter(f"{SVG}rect")]
    assert len([opacity for opacity in heat if opacity is not None]) > 5
    # No engine is scraped here.
    assert not list(pictures["serval-engine"].iter(f"{SVG}polyline"))
