"""Measurements kept as they are made: a line of the table on stdout, and a line of JSON in a file.

A run that is killed leaves everything that it measured, and another can go on from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serval_kernels.bench import report
from serval_kernels.bench.report import OK, Row


class OtherRunError(ValueError):
    """The file to go on with holds measurements of another machine or of other sizes."""


class Record:
    """Rows of this run and of the one that it goes on with.

    `conditions` describes the machine and the sizes, and is the first line of `file`. With `resume`, rows
    already in `file` are kept if they were measured under the same conditions; otherwise it is overwritten.
    Raises `OtherRunError` if the conditions differ.
    """

    def __init__(self, file: Path | None, conditions: Mapping[str, Any], *, resume: bool) -> None:
        self.rows: list[Row] = []
        self._file = file
        self._builtin_s: dict[tuple[str, int], float] = {}
        if file is None:
            return
        lines = _whole_lines(file) if resume and file.exists() else []
        if lines:
            self._read(lines, conditions)
        else:
            file.write_text("", encoding="utf-8")
            self.note(conditions)

    def has(self, operation: str, tokens: int, table: str, path: str) -> bool:
        """True if this row was measured and right."""
        return any(
            (row.operation, row.tokens, row.table, row.path, row.check)
            == (operation, tokens, table, path, OK)
            for row in self.rows
        )

    def builtin_s(self, operation: str, tokens: int) -> float | None:
        """Return the median of the built-in path of an operation, if it was measured."""
        return self._builtin_s.get((operation, tokens))

    def add(self, row: Row) -> None:
        """Print the row, and append it to the file."""
        self._keep(row)
        print(report.markdown(row), flush=True)
        self.note(report.as_json(row))

    def note(self, content: Mapping[str, Any]) -> None:
        """Append an object to the file."""
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(content) + "\n")

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        if row.path == "built-in" and row.timing is not None:
            self._builtin_s[row.operation, row.tokens] = row.timing.median_s

    def _read(self, lines: Sequence[str], conditions: Mapping[str, Any]) -> None:
        first, *others = map(json.loads, lines)
        if first != json.loads(json.dumps(conditions)):
            raise OtherRunError(
                f"{self._file} holds measurements under other conditions, {first}: give another file, or "
                "leave out --resume to overwrite it."
            )
        for content in others:
            if content["what"] == report.KERNEL and content["check"] == OK:
                self._keep(report.from_json(content))


def _whole_lines(file: Path) -> list[str]:
    """Return the lines of the file, without one that a killed run did not finish."""
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return whole.splitlines()
