"""Charts as plain geometry, which a template draws as SVG."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

WIDTH: Final = 720.0
HEIGHT: Final = 200.0
# Names with a colour of their own; the rest are drawn together.
MOST_NAMES: Final = 6
OTHERS: Final = "others"


class Bar(Struct, frozen=True):
    """A rectangle of a stack: `series` is the index of its name, `title` its description."""

    x: float
    y: float
    width: float
    height: float
    series: int
    title: str


class Chart(Struct, frozen=True):
    """Stacked bars. `labels` are the first and the last of the axis, `top` the value at the upper edge."""

    bars: Sequence[Bar]
    names: Sequence[str]
    labels: Sequence[str]
    top: int


def stacked_bars(counts: Mapping[tuple[str, str], int], columns: Sequence[str]) -> Chart:
    """Return the chart of counts by column and name; the largest names have colours of their own."""
    totals: dict[str, int] = {}
    for (_, name), count in counts.items():
        totals[name] = totals.get(name, 0) + count
    ordered = sorted(totals, key=lambda name: (-totals[name], name))
    names = ordered[:MOST_NAMES] + ([OTHERS] if len(ordered) > MOST_NAMES else [])
    series = {name: min(place, MOST_NAMES) for place, name in enumerate(ordered)}
    stacks = {column: [0] * len(names) for column in columns}
    for (column, name), count in counts.items():
        if column in stacks:
            stacks[column][series[name]] += count
    top = max((sum(stack) for stack in stacks.values()), default=0)
    step = WIDTH / max(1, len(columns))
    bars = []
    for place, column in enumerate(columns):
        y = HEIGHT
        for index, count in enumerate(stacks[column]):
            if count:
                height = HEIGHT * count / top
                y -= height
                title = f"{column}, {names[index]}: {count:,}"
                bars.append(Bar(place * step + step * 0.1, y, step * 0.8, height, index, title))
    return Chart(bars, names, [columns[0], columns[-1]] if columns else [], top)
