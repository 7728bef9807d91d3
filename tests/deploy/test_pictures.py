"""Drawings of the dashboards from a real Prometheus that scrapes a gateway."""

import asyncio
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

import serval
from serval_load.report.chart import Series
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
    # No engine is scraped here.
    assert not list(pictures["serval-engine"].iter(f"{SVG}polyline"))


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of panels that are no line charts."""
    monkeypatch.syspath_prepend(DEPLOY / "grafana")
    return importlib.import_module("draw_panels")


def test_heat_map_has_the_observations_of_each_bucket(drawing: ModuleType) -> None:
    """Buckets are cumulative: of 4 in 10 s, 3 took a second or less, and 1 more."""
    lines = [Series("10.0", [(0.0, 4.0)]), Series("1.0", [(0.0, 3.0)]), Series("+Inf", [(0.0, 4.0)])]
    drawn = "".join(drawing.heat_map(lines, (400, 300), drawing.Window(0.0, 60.0)))
    assert re.findall(r'fill-opacity="([^"]*)"', drawn) == ["1.00", "0.40"]
    assert re.findall(r">([^<]+)<", drawn) == ["1 s", "10 s", "-1 minutes", "now"]


def test_states_are_drawn_in_their_colours_and_gaps_stay_empty(drawing: ModuleType) -> None:
    states = {"0": {"text": "away", "color": "red"}, "1": {"text": "ready", "color": "green"}}
    panel = {"fieldConfig": {"defaults": {"mappings": [{"options": states}]}}}
    line = Series("e0", [(0.0, 1.0), (10.0, 1.0), (20.0, 0.0), (50.0, 1.0)])
    drawn = "".join(drawing.states(panel, [line], (420, 200), drawing.Window(0.0, 60.0)))
    assert re.findall(r'fill="(#[0-9a-f]{6})"', drawn) == ["#5cb85c", "#d9534f", "#5cb85c"]
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([^"]*)"', drawn)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
