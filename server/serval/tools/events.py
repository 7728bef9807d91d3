"""What a parser reports while the model writes. Structs: one is made for each token."""

from msgspec import Struct


class ContentDelta(Struct, frozen=True):
    """A piece of the assistant's visible text."""

    text: str


class ReasoningDelta(Struct, frozen=True):
    """A piece of the text inside the think block."""

    text: str


class ToolCallStart(Struct, frozen=True):
    """A call begins. Sent once, with the whole name; `index` is the ordinal of the call in this message."""

    index: int
    name: str


class ArgumentsDelta(Struct, frozen=True):
    """A piece of the JSON text of call `index`'s arguments; those of a closed call join to one object."""

    index: int
    text: str


Event = ContentDelta | ReasoningDelta | ToolCallStart | ArgumentsDelta
