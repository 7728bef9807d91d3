"""Draw the dashboards as SVG from a running Prometheus, without Grafana.

python deploy/grafana/draw_dashboards.py http://127.0.0.1:9090 FOLDER [MINUTES]

Same panels, places and queries as in Grafana, drawn plainly. Runs in the checkout's environment
(`make -s print-venv`), because the chart is that of the load tests.
"""

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import draw_panels
from draw_panels import Window, legend, number

from serval_load.report import chart
from serval_load.report.chart import Series

HERE = Path(__file__).parent
CELL_W, CELL_H, GAP, POINTS = 50, 34, 6, 120
# A longer legend would hide the curves.
MAX_NAMES = 8
# Series that are no measurements.
LIMITS = ("objective", "threshold", "somebody")


def lines_of(url: str, panel: dict[str, Any], window: Window) -> list[Series]:
    """Series that Prometheus returns for the queries of a panel."""
    found = []
    step = (window.end - window.start) / POINTS
    for target in panel["targets"]:
        query = filled_in(target["expr"], window)
        fields = {"query": query, "start": window.start, "end": window.end, "step": step}
        for one in asked(url, "query_range", fields):
            numbers = [(float(moment), float(value)) for moment, value in one["values"]]
            points = tuple((moment, value) for moment, value in numbers if math.isfinite(value))
            if points:
                found.append(Series(legend(target["legendFormat"], one["metric"]), points))
    return sorted(found, key=lambda line: (line.name.startswith(LIMITS), line.name))


def stacked(lines: list[Series]) -> list[Series]:
    """Add to each line the values of those before it."""
    below: dict[float, float] = {}
    piled = []
    for line in lines:
        for moment, value in line.points:
            below[moment] = below.get(moment, 0.0) + value
        piled.append(Series(line.name, tuple((moment, below[moment]) for moment, _ in line.points)))
    return piled


def draw_panel(url: str, panel: dict[str, Any], starts: list[float], window: Window) -> list[str]:
    """Draw a panel at its place on the grid."""
    grid = panel["gridPos"]
    x, y = grid["x"] * CELL_W, grid["y"] * CELL_H
    w, h = size = grid["w"] * CELL_W - GAP, grid["h"] * CELL_H - GAP
    out = [
        f'<g transform="translate({x},{y})">',
        f'<rect width="{w}" height="{h}" rx="4" fill="#fff" stroke="#d5d5d5"/>',
    ]
    title = f'<text x="8" y="16" font-size="13">{escape(panel["title"])}</text>'
    if panel["type"] == "table":
        return [*out, title, *draw_panels.table(rows_of(url, panel, window), size), "</g>"]
    lines = lines_of(url, panel, window)
    if all(line.name.startswith(LIMITS) for line in lines):
        nothing = f'<text x="{w / 2}" y="{h / 2 + 8}" text-anchor="middle" fill="#888">nothing</text>'
        return [*out, title, nothing, "</g>"]
    match panel["type"]:
        case "stat":
            drawn = [title, *draw_panels.stat(panel, lines[0].points[-1][1], size)]
        case "state-timeline":
            drawn = [title, *draw_panels.states(panel, lines, size, window)]
        case "heatmap":
            drawn = [title, *draw_panels.heat_map(lines, size, window)]
        case _:
            drawn = [draw_graph(panel, lines, size, window), *draw_panels.marks(starts, size, window)]
    return [*out, *drawn, "</g>"]


def rows_of(url: str, panel: dict[str, Any], window: Window) -> list[list[str]]:
    """Rows of a table: its columns' names, then their values at the end of the window."""
    include, *_ = [step for step in panel["transformations"] if step["id"] == "filterFieldsByName"]
    columns = include["options"]["include"]["names"]
    found = []
    for target in panel["targets"]:
        for one in asked(url, "query", {"query": filled_in(target["expr"], window), "time": window.end}):
            labels = one["metric"] | {"Value": one["value"][1]}
            found.append([labels.get(column, "") for column in columns])
    return [columns, *sorted(found)]


def starts_of(url: str, dashboard: dict[str, Any], window: Window) -> list[float]:
    """Times of starts and reloads within the window."""
    times = [
        float(one["value"][1]) / 1000
        for mark in dashboard["annotations"]["list"]
        if mark["useValueForTime"]
        for one in asked(url, "query", {"query": filled_in(mark["expr"], window), "time": window.end})
    ]
    return sorted(moment for moment in times if window.start < moment < window.end)


def filled_in(query: str, window: Window) -> str:
    """Return the query with everything chosen at the top of the dashboard."""
    query = query.replace("$__rate_interval", window.rate_interval)
    return re.sub(r"\$(namespace|model|release|engine|instance)", ".*", query)


def asked(url: str, path: str, fields: dict[str, Any]) -> list[Any]:
    """Return the result of a query to Prometheus."""
    address = f"{url}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
    with urllib.request.urlopen(address, timeout=60) as response:  # noqa: S310
        result: list[Any] = json.load(response)["data"]["result"]
    return result


def draw_graph(panel: dict[str, Any], lines: list[Series], size: tuple[int, int], window: Window) -> str:
    """Draw curves over the minutes before now, stacked where the dashboard stacks them."""
    defaults = panel["fieldConfig"]["defaults"]
    piled = "stacking" in defaults.get("custom", {})
    series = [
        Series(
            line.name or "all" if place < MAX_NAMES else "",
            [((moment - window.end) / 60, max(value, 0.0)) for moment, value in line.points],
        )
        for place, line in enumerate(stacked(lines) if piled else lines)
    ]
    return chart.panel(
        series,
        title=panel["title"],
        x="minutes",
        y="",
        size=size,
        x_range=((window.start - window.end) / 60, 0.0),
        y_text=lambda value: number(value, defaults["unit"]),
        filled=piled,
    )


def draw(url: str, dashboard: dict[str, Any], window: Window) -> str:
    """Draw a dashboard as SVG."""
    panels = dashboard["panels"]
    width = max((p["gridPos"]["x"] + p["gridPos"]["w"]) * CELL_W for p in panels)
    height = max((p["gridPos"]["y"] + p["gridPos"]["h"]) * CELL_H for p in panels)
    starts = starts_of(url, dashboard, window)
    body = [part for panel in panels for part in draw_panel(url, panel, starts, window)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -34 {width + 10} {height + 36}" '
        'font-family="sans-serif" font-size="11" fill="#222">'
    )
    title = f'<text y="-12" font-size="16" font-weight="600">{escape(dashboard["title"])}</text>'
    ground = f'<rect x="-8" y="-34" width="{width + 10}" height="{height + 36}" fill="#f6f6f6"/>'
    return "\n".join([head, ground, title, *body, "</svg>"]) + "\n"


def draw_into(
    url: str, folder: Path, minutes: float, uids: Collection[str] = (), *, suffix: str = ""
) -> None:
    """Draw the dashboards named by `uids`, or all, over the last minutes, into files of their names."""
    now = time.time()
    window = Window(now - 60 * minutes, now)
    for path in sorted((HERE / "dashboards").glob("*.json")):
        if path.stem in (uids or {path.stem}):
            target = folder / f"{path.stem}{suffix}.svg"
            made = draw(url, json.loads(path.read_text(encoding="utf-8")), window)
            target.write_text(made, encoding="utf-8")
            print(f"drew {target}", file=sys.stderr)


def main(arguments: list[str]) -> None:
    """Draw every dashboard into a folder."""
    if len(arguments) not in (2, 3):
        sys.exit(__doc__)
    url, folder, *minutes = arguments
    draw_into(url, Path(folder), float(minutes[0] if minutes else 10))


if __name__ == "__main__":
    main(sys.argv[1:])
