"""Rows that the benches write to a file, one JSON object a line, as soon as each is measured.

A row has a `check`: "ok"; "failed: ..." if its path is wrong or did not run; "skipped: ...". Only "ok" comes
with figures. Lines without a check describe the conditions. A row that is measured again replaces the earlier
one.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serval_load.gpu_check.record import json_lines

Row = Mapping[str, Any]

_OK, _FAILED = "ok", "failed"
_LABELS: Mapping[str, Callable[[Row], str]] = {
    "kernel": lambda row: f"{row['operation']} T={row['tokens']} {row['table']} {row['path']}",
    "decode": lambda row: f"{row['variant']}: decode step of {row['batch']}",
    "prefill": lambda row: f"{row['variant']}: prefill",
    "drafts": lambda row: f"{row['variant']}: batch {row['batch']}",
}


def _kernel_figures(row: Row) -> str:
    spread = f"{row['us']:,.1f} us ({row['us_p20']:,.1f}-{row['us_p80']:,.1f})"
    compared = f", built-in / this {row['builtin_us'] / row['us']:.2f}" if row.get("builtin_us") else ""
    return f"{spread}, {row['us'] / row['floor_us']:.1f} x floor{compared}"


def _draft_figures(row: Row) -> str:
    rate = f"{row['tokens_per_s']:,.0f} tokens/s"
    if not row["accepted"]:
        return rate
    accepted = ", ".join(f"{share:.0%}" for share in row["accepted"])
    return f"{rate}, {row['tokens_per_pass']:.2f} tokens a pass, accepted by position {accepted}"


_FIGURES: Mapping[str, Callable[[Row], str]] = {
    "kernel": _kernel_figures,
    "decode": lambda row: f"{row['us'] / 1e3:.3f} ms, {1e6 * row['batch'] / row['us']:,.0f} tokens/s",
    "prefill": lambda row: f"{row['tokens_per_s']:,.0f} tokens/s, prompts of {row['tokens']:,}",
    "drafts": _draft_figures,
}


def read_rows(path: Path) -> tuple[Row, ...]:
    """Return the rows of a file; none if it is absent."""
    rows = {label(row): row for row in json_lines(path) if "check" in row}
    return tuple(rows.values())


def is_green(row: Row) -> bool:
    """True if the path is right, and the row has figures."""
    return bool(row["check"] == _OK)


def is_red(row: Row) -> bool:
    """True if the path is wrong or did not run; a row that was skipped is neither red nor green."""
    return str(row["check"]).startswith(_FAILED)


def label(row: Row) -> str:
    """Return the words that tell a row from the others of its bench."""
    told = _LABELS.get(row["what"])
    return told(row) if told else f"{row.get('variant', '')}: {row['what']}"


def figures(row: Row) -> str:
    """Return the figures of a green row with their units, or the reason why there are none."""
    if not is_green(row):
        return str(row["check"])
    told = _FIGURES.get(row["what"])
    if told:
        return told(row)
    return ", ".join(f"{name} {value:,.4g}" for name, value in row.items() if isinstance(value, float))
