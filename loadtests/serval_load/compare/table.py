"""Comparison tables in Markdown."""

from collections.abc import Sequence

from serval_load.compare.figures import most_stall_free, streams_at
from serval_load.compare.measure import Result


def markdown(results: Sequence[Result], *, machine: str) -> str:
    """Tables of whole answers and of streams. Added latency is latency through the gateway minus direct."""
    base = next((result for result in results if result.name == "direct"), None)
    return f"{machine}\n\n{_whole(results, base)}\n\n{_streamed(results)}\n"


def _title(result: Result) -> str:
    return f"{result.name} {result.version}".strip()


def _whole(results: Sequence[Result], base: Result | None) -> str:
    counts = [rate.connections for rate in results[0].rates]
    heads = [f"requests/s at {count} | added p50 / p99, ms" for count in counts]
    lines = [
        f"| | {' | '.join(heads)} | CPU µs a request | memory idle, MB |",
        "| --- |" + " ---: |" * (2 * len(counts) + 2),
    ]
    for result in results:
        cells = []
        for place, rate in enumerate(result.rates):
            bad = f" ({rate.bad} failed)" if rate.bad else ""
            cells.append(f"{rate.per_s:,.0f}{bad}")
            if base is None or result is base:
                cells.append(f"({rate.p50_ms:.2f} / {rate.p99_ms:.2f})")
            else:
                direct = base.rates[place]
                cells.append(f"{rate.p50_ms - direct.p50_ms:.2f} / {rate.p99_ms - direct.p99_ms:.2f}")
        own = result.name != "direct"
        cells += [f"{result.cpu_us_per_request:.0f}" if own else "", f"{result.idle_mb:.0f}" if own else ""]
        lines.append(f"| {_title(result)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _streamed(results: Sequence[Result]) -> str:
    lines = [
        "| | CPU ms per 1,000 frames, 50 streams | most stall-free streams | most frames/s"
        " | gap p99 at 50, ms | first token p50 at 50, ms | memory at most streams, MB"
        " | engine free after the client vanished |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        held = most_stall_free(result)
        tried = max(one.count for one in result.streams)
        at_50 = streams_at(result, 50)
        freed = "not within 10 s" if result.freed_s is None else f"{result.freed_s * 1e3:.0f} ms"
        cells = [
            f"{at_50.cpu_ms_per_1000:.0f}" if at_50 and result.name != "direct" else "",
            f"{held}+" if held == tried else f"{held}",
            f"{max(one.frames_per_s for one in result.streams):,.0f}",
            f"{at_50.gap_p99_ms:.0f}" if at_50 else "",
            f"{at_50.first_p50_ms:.1f}" if at_50 else "",
            f"{max(one.memory_mb for one in result.streams):.0f}" if result.name != "direct" else "",
            freed,
        ]
        lines.append(f"| {_title(result)} | {' | '.join(cells)} |")
    return "\n".join(lines)
