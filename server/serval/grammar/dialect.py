"""Dialects: the formats in which models write reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serval.grammar.compile_cost import Budget
from serval.grammar.formats import Format
from serval.tools.parser import ToolCallParser
from serval.tools.reasoning import ReasoningSplitter
from serval.tools.reply_format import ReplyFormat


class CallTag(Protocol):
    """Creates the xgrammar tag of one call to `function`, from the opening marker to the closing one.

    `enforced`: constrain arguments to the function's `parameters`; otherwise allow any. `budget`: what is
    left for the schemas of the request. Raises SchemaError for a name that cannot be written, and for a
    schema that is too expensive, or is strict and cannot be enforced.
    """

    def __call__(self, function: Mapping[str, Any], *, enforced: bool, budget: Budget) -> Format: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """The format of a model's replies, to parse them (`reply`) and to constrain the decoder (`call_tag`).

    The two must agree: the parser reads each call that `call_tag` admits as a call with valid arguments.

    - `not_in_text`: markers that the decoder must not write in the text around calls.
    - `avoid_in_json`: characters that patterns may write in JSON only where they name them explicitly. It
      holds the first character of the markers if the parser recognizes them even inside JSON strings.
    """

    reply: ReplyFormat
    call_tag: CallTag
    not_in_text: tuple[str, ...]
    avoid_in_json: str

    def parser(
        self, tools: Sequence[Mapping[str, Any]], *, thinking: bool = False, one_kind: bool = False
    ) -> ToolCallParser:
        """Return a parser for one reply. The options are those of `ToolCallParser`."""
        return ToolCallParser(self.reply, tools, thinking=thinking, one_kind=one_kind)

    def reasoning_splitter(self, *, thinking: bool) -> ReasoningSplitter:
        """Return a splitter for one reply; it leaves calls to another parser."""
        return ReasoningSplitter(self.reply, thinking=thinking)
