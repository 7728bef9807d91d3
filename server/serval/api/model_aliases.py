"""Names under which clients may ask for the served model, beside its own.

Agents have names of models built in, such as those of their small, fast model. A gateway serves one model,
so every alias stands for that.
"""

import re
from collections.abc import Sequence
from typing import Final

# Longer names are never aliases: the answer, each event of a stream included, repeats the name.
MAX_NAME_CHARACTERS: Final = 256


class ModelAliases:
    """Names, and patterns in which `*` stands for any text. They may be replaced while the gateway runs."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.replace(patterns)

    def replace(self, patterns: Sequence[str]) -> None:
        """Put other patterns in force, for requests from now on."""
        self.patterns: tuple[str, ...] = tuple(patterns)
        self._matches = re.compile("|".join(map(_expression, patterns)) or "(?!)", re.DOTALL).fullmatch

    @property
    def names(self) -> list[str]:
        """The aliases that are names and not patterns."""
        return [pattern for pattern in self.patterns if "*" not in pattern]

    def cover(self, name: str) -> bool:
        """Return True if the served model may be asked for by `name`."""
        return len(name) <= MAX_NAME_CHARACTERS and self._matches(name) is not None


def _expression(pattern: str) -> str:
    return ".*".join(map(re.escape, pattern.split("*")))
