"""Line charts as SVG: a few series over one axis."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 44, 44
# Quarters of them are what the axes show.
_STEPS = (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10)
# More of them would hide their line.
_MOST_DOTS = 40
_COLORS = ("#2f6690", "#b04a3a", "#6aa84f", "#8e6bb0")


@dataclass(frozen=True)
class Series:
    """One line: a name and its points, in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


def chart(series: Sequence[Series], *, title: str, x: str, y: str) -> str:
    """An SVG of its own; both axes start at 0."""
    return document([panel(series, title=title, x=x, y=y)])


def document(panels: Sequence[str], *, columns: int = 2) -> str:
    """Panels side by side in one SVG."""
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


def panel(series: Sequence[Series], *, title: str, x: str, y: str) -> str:
    """One chart, to be put into a document."""
    points = [point for one in series for point in one.points if not math.isnan(point[1])]
    most_x = _round_up(max((point[0] for point in points), default=1.0))
    most_y = _round_up(max((point[1] for point in points), default=1.0))
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(px: float, py: float) -> tuple[float, float]:
        return _LEFT + wide * px / most_x, _TOP + high * (1 - py / most_y)

    parts = [f'<text x="{_LEFT}" y="16" font-size="13">{html.escape(title)}</text>']
    for step in range(5):
        at_x, at_y = most_x * step / 4, most_y * step / 4
        line_x, line_y = place(at_x, at_y)
        parts.append(
            f'<line x1="{_LEFT}" y1="{line_y:.1f}" x2="{_LEFT + wide}" y2="{line_y:.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 5}" y="{line_y + 4:.1f}" text-anchor="end">{_number(at_y)}</text>'
            f'<text x="{line_x:.1f}" y="{_TOP + high + 14}" text-anchor="middle">{_number(at_x)}</text>'
        )
    middle = _LEFT + wide / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">{html.escape(x)}</text>')
    parts.append(f'<text x="4" y="{_TOP - 8}" fill="#555">{html.escape(y)}</text>')
    label_x = _LEFT + 44
    for number, one in enumerate(series):
        color = _COLORS[number % len(_COLORS)]
        placed = [place(*point) for point in one.points if not math.isnan(point[1])]
        drawn = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="2"/>')
        if len(placed) <= _MOST_DOTS:
            parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"/>' for px, py in placed]
        if not one.name:
            continue
        parts.append(f'<rect x="{label_x}" y="{_TOP - 17}" width="10" height="10" fill="{color}"/>')
        parts.append(f'<text x="{label_x + 14}" y="{_TOP - 8}">{html.escape(one.name)}</text>')
        label_x += 28 + 6 * len(one.name)
    return "".join(parts)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _round_up(value: float) -> float:
    """The next of a few round steps times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _STEPS if step * power >= value * 0.9999)
