"""Line charts as SVG: a few series over one pair of axes.

Load reports, cost scripts and `deploy/grafana/draw_dashboards.py` draw with it. It needs the standard library
only, so a report needs no plotting package.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 44, 44
_LEGEND_LEFT, _LEGEND_ROW = _LEFT + 44, 14
# Axes end at one of these times a power of ten and are labelled at its quarters.
_STEPS = (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10)
# Dots on longer series would hide the line.
_MAX_DOTS = 40
_COLORS = ("#2f6690", "#b04a3a", "#6aa84f", "#8e6bb0", "#c9962c", "#4a9aa5", "#b33a5b", "#6b6b6b")


@dataclass(frozen=True)
class Series:
    """One line: a name for the legend (none if empty) and its points in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Plot:
    """Pixels of the area inside the axes, and the values at its edges."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: tuple[float, float]
    y_max: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        start, end = self.x_range
        across = self.left + (self.right - self.left) * (x - start) / (end - start)
        return across, self.top + (self.bottom - self.top) * (1 - y / self.y_max)


def number(value: float) -> str:
    """Three significant digits, with separators from a thousand on."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def chart(series: Sequence[Series], *, title: str, x: str, y: str) -> str:
    """A document of one panel."""
    return document([panel(series, title=title, x=x, y=y)])


def document(panels: Sequence[str], *, columns: int = 2) -> str:
    """An SVG document with `panels` of the default size side by side."""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH * columns} {_HEIGHT * rows}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH * columns}" height="{_HEIGHT * rows}" fill="white"/>',
    ]
    for place, one in enumerate(panels):
        left, top = _WIDTH * (place % columns), _HEIGHT * (place // columns)
        parts.append(f'<g transform="translate({left} {top})">{one}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(
    series: Sequence[Series],
    *,
    title: str,
    x: str,
    y: str,
    size: tuple[int, int] = (_WIDTH, _HEIGHT),
    x_range: tuple[float, float] | None = None,
    y_text: Callable[[float], str] = number,
    filled: bool = False,
) -> str:
    """One chart, to be placed in a document.

    Both axes start at 0, the x axis unless `x_range` is given. `y_text` formats the labels of the y axis.
    With `filled` the area under each series is coloured; the first series is drawn last.
    """
    width, height = size
    legend, rows = _legend(series, right=width - _RIGHT)
    points = [point for one in series for point in one.points if not math.isnan(point[1])]
    plot = _Plot(
        left=_LEFT,
        top=_TOP + _LEGEND_ROW * (rows - 1),
        right=width - _RIGHT,
        bottom=height - _BOTTOM,
        x_range=x_range or (0.0, _round_up(max((point[0] for point in points), default=1.0))),
        y_max=_round_up(max((point[1] for point in points), default=1.0)),
    )
    middle = (plot.left + plot.right) / 2
    parts = [
        f'<text x="{_LEFT}" y="16" font-size="13">{html.escape(title)}</text>',
        *_axes(plot, y_text),
        f'<text x="{middle}" y="{height - 12}" text-anchor="middle">{html.escape(x)}</text>',
        f'<text x="4" y="{plot.top - 8}" fill="#555">{html.escape(y)}</text>',
    ]
    curves = [_curve(one, _color(index), plot, filled=filled) for index, one in enumerate(series)]
    parts += reversed(curves) if filled else curves
    return "".join([*parts, *legend])


def _axes(plot: _Plot, y_text: Callable[[float], str]) -> list[str]:
    """Horizontal grid lines and the values at the quarters of both axes."""
    parts = []
    start, end = plot.x_range
    for step in range(5):
        at_x, at_y = start + (end - start) * step / 4, plot.y_max * step / 4
        line_x, line_y = plot.place(at_x, at_y)
        label = html.escape(y_text(at_y))
        parts.append(
            f'<line x1="{plot.left}" y1="{line_y:.1f}" x2="{plot.right}" y2="{line_y:.1f}" stroke="#ddd"/>'
            f'<text x="{plot.left - 5}" y="{line_y + 4:.1f}" text-anchor="end">{label}</text>'
            f'<text x="{line_x:.1f}" y="{plot.bottom + 14}" text-anchor="middle">{number(at_x)}</text>'
        )
    return parts


def _curve(series: Series, color: str, plot: _Plot, *, filled: bool) -> str:
    places = [plot.place(*point) for point in series.points if not math.isnan(point[1])]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>']
    if filled and places:
        area = f"{places[0][0]:.1f},{plot.bottom} {line} {places[-1][0]:.1f},{plot.bottom}"
        parts.insert(0, f'<polygon points="{area}" fill="{color}" fill-opacity=".35"/>')
    if len(places) <= _MAX_DOTS:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
    return "".join(parts)


def _legend(series: Sequence[Series], *, right: float) -> tuple[list[str], int]:
    """The named series beside their colours, wrapped at `right`, and the number of rows that takes."""
    parts = []
    left, row = _LEGEND_LEFT, 0
    for index, one in enumerate(series):
        if not one.name:
            continue
        width = 28 + 6 * len(one.name)
        if left > _LEGEND_LEFT and left + width > right:
            left, row = _LEGEND_LEFT, row + 1
        top = _TOP - 17 + _LEGEND_ROW * row
        parts.append(f'<rect x="{left}" y="{top}" width="10" height="10" fill="{_color(index)}"/>')
        parts.append(f'<text x="{left + 14}" y="{top + 9}">{html.escape(one.name)}</text>')
        left += width
    return parts, row + 1


def _color(index: int) -> str:
    return _COLORS[index % len(_COLORS)]


def _round_up(value: float) -> float:
    """The next larger of a few round numbers."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _STEPS if step * power >= value * 0.9999)
