"""Formatting of numbers and tables for a terminal."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, left: frozenset[int] = frozenset({0})) -> str:
    """Align rows in columns two spaces apart: columns in `left` to the left, all others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def decimal_size(size_bytes: int) -> str:
    """Format 62812000000 as "62.81 GB", in powers of 1000 as files are measured."""
    return _scaled(size_bytes, ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")), "B")


def short_number(count: int) -> str:
    """Format 68561000000 as "68.56 B", in billions, millions and thousands."""
    return _scaled(count, ((10**9, "B"), (10**6, "M"), (10**3, "k")), "")


def _scaled(count: int, units: Sequence[tuple[int, str]], smallest: str) -> str:
    for unit, name in units:
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count} {smallest}".rstrip()
