"""A dialect: how a model writes reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serval.grammar.formats import Format
from serval.tools.parser import ToolCallParser
from serval.tools.reasoning import ReasoningSplitter
from serval.tools.reply_format import ReplyFormat


class CallTag(Protocol):
    """Makes the xgrammar tag of one call to `function`, from the opening marker to the closing one.

    `enforced`: arguments are held to the function's `parameters`; otherwise any are admitted. Raises
    SchemaError for a name that cannot be written, and for a schema that is no schema, admits nothing, or is
    strict and cannot be enforced.
    """

    def __call__(self, function: Mapping[str, Any], *, enforced: bool) -> Format: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """Reads replies of one format (`reply`), and holds the decoder to it (`call_tag`).

    The two must agree: each call that `call_tag` admits is read as a call with valid arguments.

    - `not_in_text`: markers that the decoder must not write in the text around calls.
    - `avoid_in_json`: characters that wildcards must not write in JSON, because a marker that begins with one
      would be read as a marker there.
    """

    reply: ReplyFormat
    call_tag: CallTag
    not_in_text: tuple[str, ...]
    avoid_in_json: str

    def parser(
        self, tools: Sequence[Mapping[str, Any]], *, thinking: bool = False, one_kind: bool = False
    ) -> ToolCallParser:
        """Return a parser of one reply. For the options see `ToolCallParser`."""
        return ToolCallParser(self.reply, tools, thinking=thinking, one_kind=one_kind)

    def reasoning_splitter(self, *, thinking: bool) -> ReasoningSplitter:
        """Return a reader of one reply that leaves calls to another parser."""
        return ReasoningSplitter(self.reply, thinking=thinking)
