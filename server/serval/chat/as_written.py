"""Numbers that remember how they were written, so that history is rendered as the model wrote it.

Python writes `1.50` as 1.5, which is other tokens: the model's own turn would be no prefix of the next
prompt, and would miss the cache.
"""

from typing import Any


class WrittenFloat(float):
    """A number such as `1.50` or `1e3`; to a chat template it is the number that it is."""

    # A name that no template asks for.
    _serval_json_text: str


def written_float(literal: str) -> float:
    """The number of a JSON literal; it remembers the literal if Python would write another."""
    number = float(literal)
    if repr(number) == literal:
        return number
    written = WrittenFloat(number)
    written._serval_json_text = literal
    return written


def written_json(value: Any) -> str | None:
    """The literal that `value` was read from, if it remembers one."""
    return value._serval_json_text if isinstance(value, WrittenFloat) else None
