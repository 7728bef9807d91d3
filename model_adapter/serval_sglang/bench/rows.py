"""Figures of one variant: a line of the table, and lines of JSON that are written as each is measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK = "ok"


@dataclass(frozen=True)
class Row:
    """Figures of one variant; where `check` is not "ok" it says why there are none, or no more."""

    variant: str
    check: str = OK
    step_s: Mapping[int, float] = field(default_factory=dict)  # by batch
    prefill_tokens_per_s: float | None = None
    memory_gb: Mapping[str, float] = field(default_factory=dict)


class Output:
    """Objects, one a line, in a file (None for none)."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        if file is not None:
            file.write_text("", encoding="utf-8")

    def write(self, what: str, **content: Any) -> None:
        """Append an object."""
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"what": what, **content}) + "\n")


def head(batches: Sequence[int]) -> str:
    """Return the first two lines of the table."""
    steps = [f"step of {batch}, ms" for batch in batches]
    names = ["variant", *steps, f"tokens/s at {batches[-1]}", "prefill tokens/s", "weights, GB", "graphs, GB"]
    return f"| {' | '.join(names)} |\n| --- |{' ---: |' * (len(names) - 1)}"


def line(row: Row, batches: Sequence[int]) -> str:
    """Return the line of one variant; a variant without right answers shows no speed."""
    if row.check != OK:
        return f"| {row.variant} | {row.check} |{' |' * (len(batches) + 3)}"
    last = row.step_s.get(batches[-1])
    cells = [_cell(row.step_s.get(batch), 1e3, ".3f") for batch in batches]
    cells.append("-" if last is None else f"{batches[-1] / last:,.0f}")
    cells.append(_cell(row.prefill_tokens_per_s, 1, ",.0f"))
    cells += [_cell(row.memory_gb.get(part), 1, ".2f") for part in ("weight", "graph")]
    return f"| {row.variant} | {' | '.join(cells)} |"


def _cell(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else f"{value * factor:{form}}"
