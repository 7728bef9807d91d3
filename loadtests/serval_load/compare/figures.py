"""Figures of a comparison: their file, and the ratios drawn from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serval_load.compare.measure import Result, Streams

# Connections and streams of the ratios: enough to keep a gateway busy, few enough for all to answer.
_CONNECTIONS = 32
_STREAMS = 50


@dataclass(frozen=True)
class Comparison:
    """Results of all systems of one run; `machine` says where and when it ran."""

    machine: str
    results: list[Result]


def read_comparison(path: Path) -> Comparison:
    """Read the output of `python -m serval_load compare --json`. Raises `OSError`, `msgspec.MsgspecError`."""
    return msgspec.json.decode(path.read_bytes(), type=Comparison)


def streams_at(result: Result, count: int) -> Streams | None:
    """Run with `count` streams, or None if the system failed before."""
    return next((one for one in result.streams if one.count == count), None)


def most_stall_free(result: Result) -> int:
    """Largest number of streams in a run without a stall."""
    return max((one.count for one in result.streams if one.stall_free == one.count), default=0)


def ratios(results: Sequence[Result]) -> str:
    """Markdown table with a row for each other system. Ratios carry over to other machines, times do not."""
    own = next(result for result in results if result.name == "serval")
    direct = next((most_stall_free(result) for result in results if result.name == "direct"), None)
    # The number without a gateway is the machine's limit; name it where the gateway reaches it.
    limit = "" if direct is None or direct > most_stall_free(own) else f"; without a gateway {direct}"
    lines = [
        "| Serval beside | CPU of a whole answer (less is better) | CPU of a streamed frame (less is better)"
        f" | requests/s (more is better) | stall-free streams (more is better{limit}) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for other in results:
        if other.name in ("direct", "serval"):
            continue
        mine, theirs = streams_at(own, _STREAMS), streams_at(other, _STREAMS)
        frame = _times(mine.cpu_ms_per_1000, theirs.cpu_ms_per_1000) if mine and theirs else "not measured"
        cells = [
            f"{other.name} {other.version}",
            _times(own.cpu_us_per_request, other.cpu_us_per_request),
            frame,
            _times(_per_s(own), _per_s(other)),
            f"{most_stall_free(own)} to {most_stall_free(other)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _times(one: float, other: float) -> str:
    return f"{one / other:.2g} times" if one >= other else f"1/{other / one:.2g}"


def _per_s(result: Result) -> float:
    return next(one.per_s for one in result.rates if one.connections == _CONNECTIONS)
