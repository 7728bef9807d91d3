"""Events of a parser. They are structs because one is made for each token."""

from msgspec import Struct


class ContentDelta(Struct, frozen=True):
    """A piece of the assistant's visible text."""

    text: str


class ReasoningDelta(Struct, frozen=True):
    """A piece of the text inside the think block."""

    text: str


class ToolCallStart(Struct, frozen=True):
    """The start of a call, with its whole name; `index` is the ordinal of the call in the message."""

    index: int
    name: str


class ArgumentsDelta(Struct, frozen=True):
    """A piece of the arguments of call `index`. The pieces of a closed call join to one JSON object."""

    index: int
    text: str


Event = ContentDelta | ReasoningDelta | ToolCallStart | ArgumentsDelta
