"""Draws the dashboards as SVG from a running Prometheus, where no Grafana is at hand.

python deploy/grafana/draw_dashboards.py http://127.0.0.1:9090 FOLDER [MINUTES]

Same panels, places and queries as in Grafana, drawn plainly: lines, stacked areas or single numbers.
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

HERE = Path(__file__).parent
CELL_W, CELL_H, GAP, POINTS = 50, 34, 6, 120
COLOURS = ("#3b6fb6", "#c4652d", "#3f8f5a", "#8a56a8", "#a98a1f", "#b33a5b", "#4a9aa5", "#6b6b6b")


@dataclass(frozen=True)
class Window:
    """The time that is drawn, in seconds, and the shortest interval over which a rate is taken."""

    start: float
    end: float
    rate_interval: str = "1m"


@dataclass(frozen=True)
class Line:
    """One series: its legend, and (time, value) pairs in order."""

    legend: str
    points: tuple[tuple[float, float], ...]


def lines_of(url: str, panel: dict[str, Any], window: Window) -> list[Line]:
    """What Prometheus answers to the panel's queries."""
    found = []
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", window.rate_interval)
        query = re.sub(r"\$(namespace|instance)", ".*", query)
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
                found.append(Line(legend(target["legendFormat"], one["metric"]), points))
    return sorted(found, key=lambda line: line.legend)


def legend(pattern: str, labels: dict[str, str]) -> str:
    """The legend with its labels filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), pattern).strip()


def number(value: float, unit: str) -> str:
    """A value as people read it."""
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


def stacked(lines: list[Line]) -> list[Line]:
    """Each line on top of those before it."""
    below: dict[float, float] = {}
    piled = []
    for line in lines:
        for moment, value in line.points:
            below[moment] = below.get(moment, 0.0) + value
        piled.append(Line(line.legend, tuple((moment, below[moment]) for moment, _ in line.points)))
    return piled


def draw_panel(panel: dict[str, Any], lines: list[Line], window: Window) -> list[str]:
    """The SVG of one panel at its place on the grid."""
    grid = panel["gridPos"]
    x, y = grid["x"] * CELL_W, grid["y"] * CELL_H
    w, h = grid["w"] * CELL_W - GAP, grid["h"] * CELL_H - GAP
    unit = panel["fieldConfig"]["defaults"]["unit"]
    out = [
        f'<g transform="translate({x},{y})">',
        f'<rect width="{w}" height="{h}" rx="4" fill="#fff" stroke="#d5d5d5"/>',
        f'<text x="8" y="18" font-weight="600">{escape(panel["title"])}</text>',
    ]
    if not lines:
        out.append(f'<text x="{w / 2}" y="{h / 2 + 8}" text-anchor="middle" fill="#888">nothing</text>')
    elif panel["type"] == "stat":
        latest = number(lines[0].points[-1][1], unit)
        out.append(
            f'<text x="{w / 2}" y="{h - 32}" text-anchor="middle" font-size="30">{escape(latest)}</text>'
        )
    else:
        piled = "stacking" in panel["fieldConfig"]["defaults"].get("custom", {})
        out += draw_graph(stacked(lines) if piled else lines, w, h, unit, window, filled=piled)
    return [*out, "</g>"]


def draw_graph(
    lines: list[Line], w: float, h: float, unit: str, window: Window, *, filled: bool
) -> list[str]:
    """Axis, curves and legend, inside a panel of that size."""
    left, top, right, bottom = 62.0, 30.0, w - 10, h - 44
    most = max(value for line in lines for _, value in line.points) or 1.0

    def place(moment: float, value: float) -> str:
        across = (moment - window.start) / (window.end - window.start)
        return f"{left + across * (right - left):.1f},{bottom - max(value, 0) / most * (bottom - top):.1f}"

    out = []
    for share in (0.0, 0.5, 1.0):
        height = bottom - share * (bottom - top)
        out.append(f'<line x1="{left}" x2="{right}" y1="{height}" y2="{height}" stroke="#eee"/>')
        text = escape(number(share * most, unit))
        out.append(f'<text x="{left - 6}" y="{height + 4}" text-anchor="end" fill="#666">{text}</text>')
    coloured = list(zip(lines, (COLOURS[i % len(COLOURS)] for i in range(len(lines))), strict=True))
    # The highest of a pile first, so that those below cover it.
    for line, colour in reversed(coloured) if filled else coloured:
        path = " ".join(place(*point) for point in line.points)
        if filled:
            around = f"{place(line.points[0][0], 0)} {path} {place(line.points[-1][0], 0)}"
            out.append(f'<polygon points="{around}" fill="{colour}" fill-opacity=".35"/>')
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    out.append(f'<text x="{left}" y="{h - 26}" fill="#666">{(window.start - window.end) / 60:.0f} min</text>')
    out.append(f'<text x="{right}" y="{h - 26}" text-anchor="end" fill="#666">now</text>')
    shown = [
        f'<tspan fill="{colour}">■</tspan> {escape(line.legend or "all")}' for line, colour in coloured[:8]
    ]
    return [*out, f'<text x="8" y="{h - 8}">{"  ".join(shown)}</text>']


def draw(url: str, dashboard: dict[str, Any], window: Window) -> str:
    """A dashboard as SVG."""
    panels = dashboard["panels"]
    width = max((p["gridPos"]["x"] + p["gridPos"]["w"]) * CELL_W for p in panels)
    height = max((p["gridPos"]["y"] + p["gridPos"]["h"]) * CELL_H for p in panels)
    body = [part for panel in panels for part in draw_panel(panel, lines_of(url, panel, window), window)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -34 {width + 10} {height + 36}" '
        'font-family="sans-serif" font-size="12" fill="#222">'
    )
    title = f'<text y="-12" font-size="16" font-weight="600">{escape(dashboard["title"])}</text>'
    ground = f'<rect x="-8" y="-34" width="{width + 10}" height="{height + 36}" fill="#f6f6f6"/>'
    return "\n".join([head, ground, title, *body, "</svg>"]) + "\n"


def main(arguments: list[str]) -> None:
    """See the module."""
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
