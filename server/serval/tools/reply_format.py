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
    """How far a call has been read."""

    MORE = enum.auto()
    """The call may go on."""
    CLOSED = enum.auto()
    """The call is over; text follows."""
    NEXT_CALL = enum.auto()
    """The opening marker of another call was read instead of the closing one."""
    PROSE = enum.auto()
    """The text is no call; `CallReader.prose` holds it."""


class CallReader(Protocol):
    """Reads one call, from behind its opening marker, and reports it to an `EventSink`."""

    @property
    def prose(self) -> str | None:
        """The text, opening marker included, if it has turned out to be no call; None otherwise."""

    def advance(self, cursor: Cursor) -> CallProgress:
        """Read on from the cursor."""

    def finish(self, cursor: Cursor, *, complete: bool) -> str | None:
        """End the call with the text. `complete`: the model meant to end here, so arguments are closed.

        Returns text after the call that had been taken for a part of it, to be read again. If there is no
        call, `prose` holds all of the text.
        """


@dataclass(frozen=True)
class ReplyFormat:
    """How a model marks reasoning, calls and the end of its turn.

    All markers begin with the same character and hold it nowhere else. `call_reader` makes the reader of one
    call to a declared tool.
    """

    call_open: str
    call_close: str
    think_open: str
    think_close: str
    end_of_turn: str
    call_reader: Callable[[DeclaredTools, EventSink], CallReader]

    @property
    def marker_start(self) -> str:
        """The character that every marker begins with."""
        return self.call_open[0]

    @cached_property
    def calls(self) -> MarkerSet:
        return MarkerSet(self.call_open)

    @cached_property
    def openings(self) -> MarkerSet:
        """The markers that may open a reply, besides a call's."""
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
