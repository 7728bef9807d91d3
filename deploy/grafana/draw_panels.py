"""Panels of draw_dashboards.py that are no line charts, as SVG elements inside a panel's frame."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

from serval_load.report.chart import Series

_TOP, _LEFT, _BOTTOM = 30, 8, 24
# Edges of a line chart of serval_load.report.chart.
_CHART_LEFT, _CHART_RIGHT = 56, 16
_COLORS = {"red": "#d9534f", "green": "#5cb85c", "yellow": "#e6c229", "blue": "#4a90d9", "orange": "#e8862e",
           "purple": "#8e6bb0"}  # fmt: skip
_LETTER = 6.2
# A heat map shows every third moment, which keeps the file small.
_COLUMN_STEPS = 3


@dataclass(frozen=True)
class Window:
    """Time range of the drawing, in seconds, and the shortest interval of a rate."""

    start: float
    end: float
    rate_interval: str = "1m"

    def share(self, moment: float) -> float:
        """Return the part of the window before a moment."""
        return (moment - self.start) / (self.end - self.start)


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Replace the label placeholders of a legend."""
    filled = re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), pattern)
    return " ".join(filled.split())


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
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    digits = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return digits + {"reqps": " /s", "ops": " /s", "percent": " %", "celsius": " °C"}.get(unit, "")


def stat(panel: dict[str, Any], value: float, size: tuple[int, int]) -> list[str]:
    """Draw a number, on the colour of its threshold."""
    defaults = panel["fieldConfig"]["defaults"]
    w, h = size
    ground = ""
    if "thresholds" in defaults:
        steps = defaults["thresholds"]["steps"]
        color = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
        ground = f'<rect x="4" y="24" width="{w - 8}" height="{h - 28}" rx="3" fill="{_COLORS[color]}"/>'
    ink = "#fff" if ground else "#222"
    text = escape(number(value, defaults["unit"]))
    return [
        ground,
        f'<text x="{w / 2}" y="{h - 34}" text-anchor="middle" font-size="30" fill="{ink}">{text}</text>',
    ]


def states(
    panel: dict[str, Any], lines: Sequence[Series], size: tuple[int, int], window: Window
) -> list[str]:
    """Draw a bar for each series, in the colours of its states."""
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    w, h = size
    names = 10 + _LETTER * max(len(line.name) for line in lines)
    left, width = _LEFT + names, w - _LEFT * 2 - names
    row = min(34.0, (h - _TOP - _BOTTOM) / len(lines))
    out = []
    for place, line in enumerate(lines):
        y = _TOP + row * place
        out.append(f'<text x="{_LEFT}" y="{y + row / 2 + 4:.1f}">{escape(line.name)}</text>')
        step = line.points[1][0] - line.points[0][0] if len(line.points) > 1 else 1.0
        for moment, end, value in _runs(line, step):
            state = mapping["options"][str(round(value))]
            x = left + width * window.share(moment)
            across = width * (window.share(min(end, window.end)) - window.share(moment))
            out.append(
                f'<rect x="{x:.1f}" y="{y + 3:.1f}" width="{max(across, 0.5):.1f}" height="{row - 6:.1f}"'
                f' fill="{_COLORS[state["color"]]}"/>'
            )
            if across > _LETTER * len(state["text"]):
                out.append(
                    f'<text x="{x + 4:.1f}" y="{y + row / 2 + 4:.1f}" fill="#fff">{state["text"]}</text>'
                )
    return [*out, *_ends(left, w - _LEFT, h, window)]


def _ends(left: float, right: float, height: int, window: Window) -> list[str]:
    """Times at both ends of a panel."""
    minutes = (window.end - window.start) / 60
    return [
        f'<text x="{left:.1f}" y="{height - 8}">-{minutes:.3g} minutes</text>',
        f'<text x="{right:.1f}" y="{height - 8}" text-anchor="end">now</text>',
    ]


def _runs(line: Series, step: float) -> list[tuple[float, float, float]]:
    """Stretches of one value: start, end and value."""
    runs: list[tuple[float, float, float]] = []
    for moment, value in line.points:
        if runs and runs[-1][2] == value and moment - runs[-1][1] < step * 0.5:
            runs[-1] = (runs[-1][0], moment + step, value)
        else:
            runs.append((moment, moment + step, value))
    return runs


def heat_map(lines: Sequence[Series], size: tuple[int, int], window: Window) -> list[str]:
    """Draw the number of observations in each bucket; `lines` are cumulative, named by their upper bounds."""
    ordered = sorted(lines, key=lambda line: math.inf if line.name == "+Inf" else float(line.name))
    moments = sorted({moment for line in ordered for moment, _ in line.points})
    columns = {moment: dict.fromkeys(range(len(ordered)), 0.0) for moment in moments}
    for row, line in enumerate(ordered):
        for moment, value in line.points:
            columns[moment][row] = value
    cells = {
        (moment, row): values[row] - (values[row - 1] if row else 0.0)
        for moment, values in columns.items()
        for row in values
    }
    used = [row for row in range(len(ordered)) if any(cells[moment, row] > 1e-9 for moment in columns)] or [0]
    rows = range(used[0], used[-1] + 1)
    w, h = size
    shown = moments[::_COLUMN_STEPS]
    tall, top = (h - _TOP - _BOTTOM) / len(rows), max(cells.values()) or 1.0
    wide = (w - _CHART_LEFT - _CHART_RIGHT) / 120 * _COLUMN_STEPS
    out = []
    for (moment, row), value in cells.items():
        if moment in shown and row in rows and value > 1e-9:
            x = _CHART_LEFT + (w - _CHART_LEFT - _CHART_RIGHT - wide) * window.share(moment)
            y = _TOP + tall * (rows[-1] - row)
            out.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}" fill="#2f6690"'
                f' fill-opacity="{0.1 + 0.9 * value / top:.2f}"/>'
            )
    for row in rows:
        bound = ordered[row].name
        text = number(float(bound), "s") if bound != "+Inf" else "more"
        y = _TOP + tall * (rows[-1] - row) + 9
        out.append(f'<text x="{_CHART_LEFT - 5}" y="{y:.1f}" text-anchor="end" font-size="9">{text}</text>')
    return [*out, *_ends(_CHART_LEFT, w - _CHART_RIGHT, h, window)]


def table(rows: Sequence[Sequence[str]], size: tuple[int, int]) -> list[str]:
    """Draw rows of texts; the first names the columns, and columns without a text are left out."""
    w, h = size
    if len(rows) == 1:
        return [f'<text x="{w / 2}" y="{h / 2 + 8}" text-anchor="middle" fill="#888">none</text>']
    kept = [at for at in range(len(rows[0])) if any(row[at] for row in rows[1:])]
    widths = [max(len(row[at]) for row in rows) * _LETTER + 14 for at in kept]
    lefts = [_LEFT + sum(widths[:at]) for at in range(len(widths))]
    fitting = int((h - _TOP) / 18)
    out = []
    for line, row in enumerate(rows[:fitting]):
        weight = ' font-weight="600"' if line == 0 else ' fill="#b04a3a"' if "critical" in row else ""
        for left, width, at in zip(lefts, widths, kept, strict=True):
            if left + width > w:
                break
            out.append(f'<text x="{left:.0f}" y="{_TOP + 14 + 18 * line}"{weight}>{escape(row[at])}</text>')
    return out


def marks(moments: Sequence[float], size: tuple[int, int], window: Window) -> list[str]:
    """Draw broken vertical lines at the moments, one for those within two seconds of each other."""
    w, h = size
    apart = [moment for before, moment in pairwise([-math.inf, *moments]) if moment - before > 2]
    lefts = [_CHART_LEFT + (w - _CHART_LEFT - _CHART_RIGHT) * window.share(moment) for moment in apart]
    return [
        f'<line x1="{x:.1f}" y1="44" x2="{x:.1f}" y2="{h - 44}" stroke="#8e6bb0" stroke-dasharray="3 3"/>'
        for x in lefts
    ]
