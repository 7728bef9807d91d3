"""Rows of measurements: as a Markdown table, as JSON, and as a picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serval_kernels.bench.roofline import Work
from serval_kernels.bench.timing import Timing

KERNEL = "kernel"  # the kind of a row among the objects in a file
OK = "ok"
HEAD = """\
| operation | T | table | path | µs (p20–p80) | time / floor | MB moved | built-in / this |
| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |"""


@dataclass(frozen=True)
class Row:
    """One path of one case. If its result was not right, `check` says so and there is no timing."""

    operation: str
    tokens: int
    table: str
    path: str
    work: Work
    floor_s: float
    check: str = OK
    timing: Timing | None = None
    builtin_s: float | None = None  # median of the built-in path of the same operation and size in this run

    @property
    def moved_bytes(self) -> int:
        return self.work.device_bytes + self.work.host_bytes


def markdown(row: Row) -> str:
    """Return one line of the table under `HEAD`. Ratios compare medians of this run."""
    start = f"| {row.operation} | {row.tokens} | {row.table} | {row.path} |"
    if row.timing is None:
        return f"{start} {row.check} | | | |"
    ratio = "" if row.builtin_s is None else f"{row.builtin_s / row.timing.median_s:.2f}"
    return (
        f"{start} {_micros(row.timing)} | {row.timing.median_s / row.floor_s:.2f} "
        f"| {row.moved_bytes / 1e6:.3g} | {ratio} |"
    )


def as_json(row: Row) -> dict[str, Any]:
    """Return the row as an object whose times are in microseconds; none are given if the check failed."""
    content: dict[str, Any] = {
        "what": KERNEL,
        "operation": row.operation,
        "tokens": row.tokens,
        "table": row.table,
        "path": row.path,
        "check": row.check,
        "device_bytes": row.work.device_bytes,
        "host_bytes": row.work.host_bytes,
        "flops": row.work.flops,
        "floor_us": 1e6 * row.floor_s,
    }
    if row.timing is not None:
        content |= {
            "us": 1e6 * row.timing.median_s,
            "us_p20": 1e6 * row.timing.p20_s,
            "us_p80": 1e6 * row.timing.p80_s,
            "calls": row.timing.calls,
            "builtin_us": None if row.builtin_s is None else 1e6 * row.builtin_s,
        }
    return content


def from_json(content: Mapping[str, Any]) -> Row:
    """Return the row that `as_json` described."""
    timing = None
    if "us" in content:
        median_s, p20_s, p80_s = (content[key] / 1e6 for key in ("us", "us_p20", "us_p80"))
        timing = Timing(median_s, p20_s, p80_s, content["calls"])
    builtin_us = content.get("builtin_us")
    return Row(
        operation=content["operation"],
        tokens=content["tokens"],
        table=content["table"],
        path=content["path"],
        work=Work(content["device_bytes"], content["host_bytes"], content["flops"]),
        floor_s=content["floor_us"] / 1e6,
        check=content["check"],
        timing=timing,
        builtin_s=None if builtin_us is None else builtin_us / 1e6,
    )


def _micros(timing: Timing) -> str:
    micros = [1e6 * value for value in (timing.median_s, timing.p20_s, timing.p80_s)]
    median, low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in micros)
    return f"{median} ({low}–{high})"


_WIDTH, _HEIGHT, _MARGIN, _GAP = 860, 330, 64, 40
_COLORS = ("#b04a3a", "#2f6690", "#6aa84f", "#8e6bb0", "#c9962c")


def picture(rows: Sequence[Row], *, title: str, subtitle: str) -> str:
    """Return an SVG of the embedding: bytes moved and time, one bar per path, grouped by size, log axes.

    Raises `ValueError` if no embedding was measured.
    """
    shown = list(_measured_embeddings(rows))
    if not shown:
        raise ValueError("there is nothing to draw: no embedding was measured.")
    series = list(dict.fromkeys(_series(row) for row, _ in shown))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + 90}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT + 90}" fill="white"/>',
        f'<text x="{_MARGIN}" y="22" font-size="16">{title}</text>',
        f'<text x="{_MARGIN}" y="40" fill="#555">{subtitle}</text>',
    ]
    half = (_WIDTH - _MARGIN - _GAP) / 2
    megabytes = {(_series(row), row.tokens): row.moved_bytes / 1e6 for row, _ in shown}
    micros = {(_series(row), row.tokens): timing.median_s * 1e6 for row, timing in shown}
    parts += _panel(megabytes, series, left=_MARGIN, width=half - _GAP, label="MB moved (counted)")
    parts += _panel(micros, series, left=_MARGIN + half + _GAP, width=half - _GAP, label="µs (measured)")
    for i, name in enumerate(series):
        x = _MARGIN + i * 170
        parts.append(f'<rect x="{x}" y="{_HEIGHT + 62}" width="12" height="12" fill="{_COLORS[i]}"/>')
        parts.append(f'<text x="{x + 18}" y="{_HEIGHT + 72}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _measured_embeddings(rows: Sequence[Row]) -> Iterator[tuple[Row, Timing]]:
    for row in rows:
        if row.operation == "embed" and row.path != "reference" and row.timing is not None:
            yield row, row.timing


def _series(row: Row) -> str:
    return row.path if row.path == "built-in" else f"{row.path}, {row.table} table"


def _panel(
    values: dict[tuple[str, int], float], series: list[str], *, left: float, width: float, label: str
) -> list[str]:
    sizes = sorted({tokens for _, tokens in values})
    lowest, highest = _decade(min(values.values()), up=False), _decade(max(values.values()), up=True)
    top, bottom = 72, _HEIGHT + 10

    def height(value: float) -> float:
        return (bottom - top) * (math.log10(value) - lowest) / (highest - lowest)

    parts = [f'<text x="{left}" y="{top - 12}" font-weight="bold">{label}</text>']
    for exponent in range(lowest, highest + 1):
        y = bottom - height(10.0**exponent)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_power(exponent)}</text>')
    group = width / len(sizes)
    bar = group * 0.8 / len(series)
    for g, tokens in enumerate(sizes):
        for s, name in enumerate(series):
            if (value := values.get((name, tokens))) is None:
                continue
            x, tall = left + g * group + group * 0.1 + s * bar, height(value)
            parts.append(
                f'<rect x="{x:.1f}" y="{bottom - tall:.1f}" width="{bar * 0.92:.1f}" height="{tall:.1f}" '
                f'fill="{_COLORS[s]}"><title>{name}, T={tokens}: {value:.4g}</title></rect>'
            )
        middle = left + (g + 0.5) * group
        parts.append(f'<text x="{middle:.1f}" y="{bottom + 18}" text-anchor="middle">T={tokens}</text>')
    return parts


def _decade(value: float, *, up: bool) -> int:
    return math.floor(math.log10(value)) + (1 if up else 0)


def _power(exponent: int) -> str:
    return f"{10.0**exponent:,.{max(-exponent, 0)}f}"
