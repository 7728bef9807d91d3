"""The text format of a reply: its markers, and the reader of one call."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from serval.tools.cursor import Cursor, MarkerSet
from serval.tools.declared_tools import DeclaredTools
from serval.tools.sink import EventSink


class CallProgress(enum.Enum):
    """Result of continuing to read a call."""

    MORE = enum.auto()
    """The call is incomplete."""
    CLOSED = enum.auto()
    """The call has ended; text follows."""
    NEXT_CALL = enum.auto()
    """The opening marker of another call was read instead of the closing one."""
    PROSE = enum.auto()
    """The text is not a call; `CallReader.prose` holds it."""


class CallReader(Protocol):
    """Reads one call, starting after its opening marker, and reports it to an `EventSink`."""

    @property
    def prose(self) -> str | None:
        """The text, including the opening marker, if it is not a call; None otherwise."""

    @property
    def cut(self) -> bool:
        """True if `finish` found the call incomplete; then its arguments are open, or it was not reported."""

    def advance(self, cursor: Cursor) -> CallProgress:
        """Continue at the cursor."""

    def finish(self, cursor: Cursor, *, complete: bool) -> str | None:
        """End the call at the end of the text. `complete`: the model itself ended its turn; close arguments.

        Otherwise the text was cut, and nothing more of it may become a call that looks complete.

        Returns text after the call that was mistaken for part of it and must be read again. If the text is
        not a call, sets `prose` to all of it.
        """


@dataclass(frozen=True)
class ReplyFormat:
    """The markers of reasoning, calls and the end of a turn.

    All markers begin with the same character and contain it nowhere else. `call_reader` creates the reader of
    one call; `argument_markers` are those inside a call.
    """

    call_open: str
    call_close: str
    think_open: str
    think_close: str
    end_of_turn: str
    call_reader: Callable[[DeclaredTools, EventSink], CallReader]
    argument_markers: tuple[str, ...] = ()

    def markers(self, *, calls: bool) -> tuple[str, ...]:
        """Return the markers that have a meaning in a turn with `calls`, or without."""
        thinking = (self.think_open, self.think_close)
        return (*thinking, self.call_open, self.call_close, *self.argument_markers) if calls else thinking

    @property
    def marker_start(self) -> str:
        """The character that every marker begins with."""
        return self.call_open[0]

    @cached_property
    def calls(self) -> MarkerSet:
        return MarkerSet(self.call_open)

    @cached_property
    def openings(self) -> MarkerSet:
        """Markers that may open a reply, other than that of a call."""
        return MarkerSet(self.think_open)

    @cached_property
    def openings_or_calls(self) -> MarkerSet:
        return MarkerSet(self.think_open, self.call_open)

    @cached_property
    def reasoning_ends(self) -> MarkerSet:
        return MarkerSet(self.think_close)

    @cached_property
    def reasoning_ends_or_calls(self) -> MarkerSet:
        return MarkerSet(self.think_close, self.call_open)
