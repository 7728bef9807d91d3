"""Draw the dashboards as SVG from a running Prometheus, without Grafana.

python deploy/grafana/draw_dashboards.py http://127.0.0.1:9090 FOLDER [MINUTES]

Same panels, places and queries as in Grafana, drawn plainly: lines, stacked areas or single numbers. Runs in
the checkout's environment (`make -s print-venv`), because the chart is that of the load tests.
"""

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from serval_load.report import chart
from serval_load.report.chart import Series

HERE = Path(__file__).parent
CELL_W, CELL_H, GAP, POINTS = 50, 34, 6, 120
# A longer legend would hide the curves.
MAX_NAMES = 8


@dataclass(frozen=True)
class Window:
    """Time range of the drawing, in seconds, and the shortest interval of a rate."""

    start: float
    end: float
    rate_interval: str = "1m"


def lines_of(url: str, panel: dict[str, Any], window: Window) -> list[Series]:
    """Series that Prometheus returns for the queries of a panel."""
    found = []
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", window.rate_interval)
        query = re.sub(r"\$(namespace|release|engine|instance)", ".*", query)
        asked = urllib.parse.urlencode(
            {
                "query": query,
                "start": window.start,
                "end": window.end,
                "step": (window.end - window.start) / POINTS,
            }
        )
        with urllib.request.urlopen(f"{url}/api/v1/query_range?{asked}", timeout=60) as response:  # noqa: S310
            series = json.load(response)["data"]["result"]
        for one in series:
            numbers = [(float(moment), float(value)) for moment, value in one["values"]]
            points = tuple((moment, value) for moment, value in numbers if math.isfinite(value))
            if points:
                found.append(Series(legend(target["legendFormat"], one["metric"]), points))
    return sorted(found, key=lambda line: line.name)


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Replace the label placeholders of a legend."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), pattern).strip()


def number(value: float, unit: str) -> str:
    """Format a value with its unit."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in ("bytes", "Bps"):
        for prefix in ("", "Ki", "Mi", "Gi"):
            if abs(value) < 1024 or prefix == "Gi":
                return f"{value:.3g} {prefix}B{'/s' if unit == 'Bps' else ''}"
            value /= 1024
    if unit == "s":
        return f"{value:.3g} s" if abs(value) >= 1 else f"{value * 1000:.3g} ms"
    return f"{value:.4g}" + {"reqps": " /s", "ops": " /s"}.get(unit, "")


def stacked(lines: list[Series]) -> list[Series]:
    """Add to each line the values of those before it."""
    below: dict[float, float] = {}
    piled = []
    for line in lines:
        for moment, value in line.points:
            below[moment] = below.get(moment, 0.0) + value
        piled.append(Series(line.name, tuple((moment, below[moment]) for moment, _ in line.points)))
    return piled


def draw_panel(panel: dict[str, Any], lines: list[Series], window: Window) -> list[str]:
    """Draw a panel at its place on the grid."""
    grid = panel["gridPos"]
    x, y = grid["x"] * CELL_W, grid["y"] * CELL_H
    w, h = grid["w"] * CELL_W - GAP, grid["h"] * CELL_H - GAP
    unit = panel["fieldConfig"]["defaults"]["unit"]
    out = [
        f'<g transform="translate({x},{y})">',
        f'<rect width="{w}" height="{h}" rx="4" fill="#fff" stroke="#d5d5d5"/>',
    ]
    if lines and panel["type"] != "stat":
        return [*out, draw_graph(panel, lines, (w, h), window), "</g>"]
    out.append(f'<text x="8" y="16" font-size="13">{escape(panel["title"])}</text>')
    if lines:
        latest = number(lines[0].points[-1][1], unit)
        out.append(
            f'<text x="{w / 2}" y="{h - 32}" text-anchor="middle" font-size="30">{escape(latest)}</text>'
        )
    else:
        out.append(f'<text x="{w / 2}" y="{h / 2 + 8}" text-anchor="middle" fill="#888">nothing</text>')
    return [*out, "</g>"]


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
    body = [part for panel in panels for part in draw_panel(panel, lines_of(url, panel, window), window)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -34 {width + 10} {height + 36}" '
        'font-family="sans-serif" font-size="11" fill="#222">'
    )
    title = f'<text y="-12" font-size="16" font-weight="600">{escape(dashboard["title"])}</text>'
    ground = f'<rect x="-8" y="-34" width="{width + 10}" height="{height + 36}" fill="#f6f6f6"/>'
    return "\n".join([head, ground, title, *body, "</svg>"]) + "\n"


def main(arguments: list[str]) -> None:
    """Draw every dashboard into a folder."""
    if len(arguments) not in (2, 3):
        sys.exit(__doc__)
    url, folder, *minutes = arguments
    now = time.time()
    window = Window(now - 60 * float(minutes[0] if minutes else 10), now)
    for path in sorted((HERE / "dashboards").glob("*.json")):
        target = Path(folder) / f"{path.stem}.svg"
        target.write_text(draw(url, json.loads(path.read_text(encoding="utf-8")), window), encoding="utf-8")
        print(f"drew {target}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
