"""Start times of sessions, in seconds after the start of the run."""

import json
import random
from collections.abc import Iterator
from pathlib import Path


def poisson(source: random.Random, *, per_s: float, seconds: float) -> Iterator[float]:
    """Arrivals of independent users: `per_s` sessions a second on average."""
    at = source.expovariate(per_s)
    while at < seconds:
        yield at
        at += source.expovariate(per_s)


def bursts(source: random.Random, *, per_s: float, seconds: float, every_s: float = 10.0) -> Iterator[float]:
    """The same rate in bursts: the sessions of `every_s` seconds begin within a tenth of a second."""
    start = 0.0
    while start < seconds:
        yield from sorted(start + source.uniform(0, 0.1) for _ in range(round(per_s * every_s)))
        start += every_s


def read_arrivals(trace: Path) -> list[tuple[float, str]]:
    """Read times and kinds of sessions, one JSON object a line: {"at": seconds, "kind": "chat"}.

    Raises `ValueError` with the number of an invalid line.
    """
    found = []
    for number, line in enumerate(trace.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            found.append((float(entry["at"]), str(entry["kind"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{trace}:{number}: {error}; wanted {{"at": 1.5, "kind": "chat"}}') from None
    return sorted(found)
