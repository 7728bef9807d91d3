"""Picture of a soak: the figures that must not grow, over time."""

from collections.abc import Callable, Sequence

from serval_load.report.chart import Series, document, panel
from serval_load.soak import Sample

# More points would make the picture larger, not clearer.
_MOST_POINTS = 100


def picture(samples: Sequence[Sample]) -> str:
    """SVG of the gateway's memory, file descriptors, tasks and requests in flight."""
    every = -(-len(samples) // _MOST_POINTS)
    shown = samples[::every]

    def over_time(title: str, y: str, value: Callable[[Sample], float]) -> str:
        points = [(one.at_s / 60, value(one)) for one in shown]
        return panel([Series("", points)], title=title, x="minutes", y=y)

    return document(
        [
            over_time("Memory", "MB", lambda one: one.memory_mb),
            over_time("Open files", "", lambda one: one.open_files),
            over_time("Tasks of the event loop", "", lambda one: one.tasks),
            over_time("Requests in flight", "", lambda one: one.in_flight),
        ]
    )
