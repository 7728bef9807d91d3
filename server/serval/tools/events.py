"""What a parser reports while the model writes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """A piece of the assistant's visible text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the text inside the think block."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins. Sent once, with the whole name; `index` is the ordinal of the call in this message."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """A piece of the JSON text of call `index`'s arguments; those of a closed call join to one object."""

    index: int
    text: str


Event = ContentDelta | ReasoningDelta | ToolCallStart | ArgumentsDelta
