"""Result of an experiment: a table, and the conditions that did not hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Finding:
    """A table, and the conditions that did not hold."""

    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note a problem unless the condition holds."""
        if not holds:
            self.problems.append(otherwise)

    def table(self) -> str:
        """Markdown table."""
        lines = [self.columns, ["---"] + ["---:"] * (len(self.columns) - 1), *self.rows]
        return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
