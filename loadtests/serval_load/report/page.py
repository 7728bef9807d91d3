"""Report of a run: a Markdown table, an SVG, and an HTML page with both."""

import html
from collections.abc import Mapping, Sequence

from serval_load.report.chart import Series, document, panel
from serval_load.report.summary import PERCENTS, Objective, Summary
from serval_load.statistics import percentile
from serval_load.workloads.driver import Request


def table(summaries: Sequence[Summary]) -> str:
    """Markdown table with a row for each rate."""
    shown = " / ".join(f"p{percent}" for percent in PERCENTS)
    lines = [
        f"| sessions/s | requests (failed) | first token {shown}, ms | gap {shown}, ms | whole {shown}, s"
        " | tokens/s | good requests/s | found in cache |",
        "| ---: |" + " ---: |" * 7,
    ]
    for one in summaries:
        cells = [
            f"{one.offered_per_s:g}",
            f"{one.requests} ({one.failed})",
            " / ".join(f"{value * 1e3:.0f}" for value in one.first_s),
            " / ".join(f"{value * 1e3:.0f}" for value in one.gap_s),
            " / ".join(f"{value:.1f}" for value in one.end_s),
            f"{one.output_tokens_per_s:,.0f}",
            f"{one.goodput_per_s:.2f}",
            f"{one.cached_share:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(summaries: Sequence[Summary], requests: Sequence[Request]) -> str:
    """SVG of latency and goodput by rate; for a single rate, of its distributions."""
    if len(summaries) < 2:
        return document(_distributions(requests))
    rates = [one.offered_per_s for one in summaries]

    def over_rate(values: Sequence[tuple[float, ...]], factor: float) -> list[Series]:
        return [
            Series(
                f"p{percent}",
                [(rate, value[place] * factor) for rate, value in zip(rates, values, strict=True)],
            )
            for place, percent in enumerate(PERCENTS)
        ]

    offered = "sessions per second"
    latency = [(one.output_tokens_per_s, one.end_s[0]) for one in summaries]
    good = [
        Series("good", [(one.offered_per_s, one.goodput_per_s) for one in summaries]),
        Series("all", [(one.offered_per_s, one.requests_per_s) for one in summaries]),
    ]
    return document(
        [
            panel(over_rate([o.first_s for o in summaries], 1e3), title="First token", x=offered, y="ms"),
            panel(over_rate([o.gap_s for o in summaries], 1e3), title="Between tokens", x=offered, y="ms"),
            panel(
                [Series("p50", latency)],
                title="Throughput and latency",
                x="output tokens per second",
                y="whole answer, s",
            ),
            panel(good, title="Goodput", x=offered, y="requests/s"),
        ]
    )


def _distributions(requests: Sequence[Request]) -> list[str]:
    complete = [one for one in requests if one.complete]
    first = [one.first_s * 1e3 for one in complete if one.first_s is not None]
    gaps = [gap * 1e3 for one in complete for gap in one.gaps_s]
    whole = [one.end_s for one in complete]
    over_time = [(one.at, one.first_s * 1e3) for one in complete if one.first_s is not None]
    percents = [*range(0, 100, 5), 99, 100]

    def curve(values: Sequence[float]) -> list[Series]:
        return [Series("", [(percent, percentile(values, percent)) for percent in percents])]

    return [
        panel(curve(first), title="First token", x="percent of requests", y="ms"),
        panel(curve(gaps), title="Between tokens", x="percent of gaps", y="ms"),
        panel(curve(whole), title="Whole answer", x="percent of requests", y="s"),
        panel([Series("", over_time)], title="First token over the run", x="seconds", y="ms"),
    ]


def page(
    summaries: Sequence[Summary], requests: Sequence[Request], *, title: str, objective: Objective
) -> str:
    """Self-contained HTML page."""
    note = (
        f"A good request: first token within {objective.first_s:g} s, at most {objective.gap_s:g} s between"
        " tokens on average."
    )
    drawn = picture(summaries, requests)
    return html_page(
        table(summaries), drawn, title=title, note=note, errors=[one.errors for one in summaries]
    )


def html_page(
    markdown: str, drawn: str, *, title: str, note: str, errors: Sequence[Mapping[str, int]]
) -> str:
    """HTML page of a Markdown table, an SVG picture, and the errors of each run."""
    rows = [line.strip("|").split("|") for line in markdown.splitlines() if "---" not in line]
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell.strip())}</td>" for cell in row) + "</tr>" for row in rows
    )
    listed = "".join(
        f"<li>{count} × {html.escape(reason)}</li>" for one in errors for reason, count in one.items()
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<style>body{font-family:sans-serif;max-width:60em;margin:2em auto}"
        "td{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:right}</style>"
        f"<h1>{html.escape(title)}</h1><table>{cells}</table>"
        f"<p>{html.escape(note)}</p>{drawn}<ul>{listed}</ul>"
    )
