"""Picture of a comparison."""

from collections.abc import Sequence

from serval_load.compare.measure import Result
from serval_load.report.chart import Series, document, panel


def picture(results: Sequence[Result]) -> str:
    """SVG of requests/s by connections, and of stall-free streams by streams requested."""
    gateways = [result for result in results if result.name != "direct"]
    return document(
        [
            panel(
                [
                    Series(one.name, [(rate.connections, rate.per_s) for rate in one.rates])
                    for one in gateways
                ],
                title="Whole answers",
                x="connections",
                y="1/s",
            ),
            panel(
                [
                    Series(one.name, [(held.count, held.stall_free) for held in one.streams])
                    for one in gateways
                ],
                title="Streams without a stall",
                x="streams, 50 frames a second each",
                y="",
            ),
        ]
    )
