"""Numbers that remember their literal, so that history is rendered as the model wrote it.

Python writes `1.50` as 1.5, which encodes to different tokens: the model's own turn would not be a prefix of
the next prompt, and would miss the prefix cache.
"""

from typing import Any


class WrittenFloat(float):
    """A number such as `1.50` or `1e3`; a chat template sees an ordinary number."""

    # A name that no template uses.
    _serval_json_text: str


def written_float(literal: str) -> float:
    """Convert a JSON literal; the number remembers it if Python would write it differently."""
    number = float(literal)
    if repr(number) == literal:
        return number
    written = WrittenFloat(number)
    written._serval_json_text = literal
    return written


def written_json(value: Any) -> str | None:
    """Return the literal that `value` was read from, if it remembers one."""
    return value._serval_json_text if isinstance(value, WrittenFloat) else None
