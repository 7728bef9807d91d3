"""LongCat's tool-call and reasoning parsers for SGLang's own OpenAI server.

SGLang 0.5.23 has none for LongCat (`FunctionCallParser.ToolCallParserEnum` in
function_call/function_call_parser.py, `ReasoningParser.DetectorMap` in parser/reasoning_parser.py). The
command line offers the keys of both dictionaries, so filling them before arguments are parsed is enough for
`--tool-call-parser longcat --reasoning-parser longcat`. A LongCat parser in SGLang would make this module
unnecessary.

The format itself is the gateway's dialect, `serval.grammar.dialects.longcat`. This module is the only one
of the package that may import the gateway.
"""

from collections.abc import Iterable
from typing import Any, Final

from sglang.srt.entrypoints.openai.protocol import Tool, ToolChoice
from sglang.srt.function_call.base_format_detector import BaseFormatDetector
from sglang.srt.function_call.core_types import StreamingParseResult, StructureInfo, ToolCallItem
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.parser.reasoning_parser import BaseReasoningFormatDetector, ReasoningParser
from sglang.srt.parser.reasoning_parser import StreamingParseResult as ReasoningResult
from xgrammar import StructuralTag

from serval.grammar.dialects.longcat import LONGCAT
from serval.grammar.structural_tag import calls_tag
from serval.schema.error import SchemaError
from serval.tools.events import ArgumentsDelta, ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.tools.parser import ToolCallParser

PARSER_NAME: Final = "longcat"
# SGLang does not tell a detector why the model stopped. Closing the arguments of a call that was cut short
# leaves valid JSON; leaving them open at a stop would not.
_FINISH_REASON: Final = "stop"


def register_parsers() -> None:
    """Register both parsers under the name "longcat". Calling it again changes nothing."""
    FunctionCallParser.ToolCallParserEnum[PARSER_NAME] = LongcatToolCallDetector
    ReasoningParser.DetectorMap[PARSER_NAME] = LongcatReasoningDetector


class LongcatToolCallDetector(BaseFormatDetector):  # type: ignore[misc]  # SGLang ships no types
    """`serval.tools.parser.ToolCallParser` behind SGLang's interface; one instance reads one reply.

    `SGLANG_FORWARD_UNKNOWN_TOOLS` has no effect: calls of undeclared tools are always forwarded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bot_token = LONGCAT.reply.call_open
        self.eot_token = LONGCAT.reply.call_close
        self._parser: ToolCallParser | None = None

    def has_tool_call(self, text: str) -> bool:
        return LONGCAT.reply.call_open in text

    def detect_and_parse(self, text: str, tools: list[Tool]) -> StreamingParseResult:
        """Read a whole reply: every call with all of its arguments."""
        parser = _parser_for(tools)
        calls: list[ToolCallItem] = []
        content: list[str] = []
        for event in (*parser.feed(text), *parser.finish(_FINISH_REASON)):
            match event:
                case ContentDelta(piece):
                    content.append(piece)
                case ToolCallStart(index, name):
                    calls.append(ToolCallItem(tool_index=index, name=name, parameters=""))
                case ArgumentsDelta(index, piece):
                    calls[index].parameters += piece
        return StreamingParseResult(normal_text="".join(content), calls=calls)

    def parse_streaming_increment(self, new_text: str, tools: list[Tool]) -> StreamingParseResult:
        if self._parser is None:
            self._parser = _parser_for(tools)
        return _streamed(self._parser.feed(new_text))

    def finish(self, tools: list[Tool]) -> StreamingParseResult:
        if self._parser is None:
            return StreamingParseResult()
        return _streamed(self._parser.finish(_FINISH_REASON))

    def structure_info(self) -> Any:
        """Satisfy the base class; SGLang uses this only if `get_structural_tag` returns nothing."""
        reply = LONGCAT.reply
        return lambda name: StructureInfo(
            begin=f"{reply.call_open}{name}\n", end=reply.call_close, trigger=reply.call_open
        )

    def get_structural_tag(
        self,
        tools: list[Tool] | None = None,
        tool_choice: ToolChoice | str = "auto",
        thinking_mode: bool = False,
        parallel_tool_calls: bool = True,
    ) -> StructuralTag:
        """Return the tag for xgrammar. Raises `ValueError` for a schema that cannot be enforced."""
        choice = tool_choice.model_dump() if isinstance(tool_choice, ToolChoice) else tool_choice
        try:
            tag = calls_tag(
                LONGCAT,
                [tool.model_dump() for tool in tools or []],
                tool_choice=choice,
                parallel_tool_calls=parallel_tool_calls,
                thinking=thinking_mode,
            )
        except SchemaError as error:
            raise ValueError(str(error)) from error
        return StructuralTag.model_validate(tag)


class LongcatReasoningDetector(BaseReasoningFormatDetector):  # type: ignore[misc]  # SGLang ships no types
    """`serval.tools.reasoning.ReasoningSplitter` behind SGLang's interface; one instance reads one reply."""

    def __init__(
        self,
        stream_reasoning: bool = True,
        force_reasoning: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            LONGCAT.reply.think_open,
            LONGCAT.reply.think_close,
            stream_reasoning=stream_reasoning,
            force_reasoning=force_reasoning,
            tool_start_token=LONGCAT.reply.call_open,
            **options,
        )
        # The base class has set this if a continued message had already opened or closed the block.
        self._in_reasoning: bool
        self._accumulated_reasoning: str
        self._splitter = LONGCAT.reasoning_splitter(thinking=self._in_reasoning)
        self._withheld: list[str] = []

    def _detect_and_parse_impl(self, text: str) -> ReasoningResult:
        return _split([*self._splitter.feed(text), *self._splitter.finish()])

    def _parse_streaming_increment_impl(self, new_text: str) -> ReasoningResult:
        result = _split(self._splitter.feed(new_text))
        self._in_reasoning = self._splitter.in_reasoning
        if not self.stream_reasoning:
            self._withheld.append(result.reasoning_text)
            result.reasoning_text = "" if self._in_reasoning else self._take_withheld()
        return result

    def finish(self) -> ReasoningResult:
        """Return withheld text as the base class's `finish` does."""
        result = _split(self._splitter.finish())
        result.reasoning_text = self._take_withheld() + result.reasoning_text
        if self._force_nonempty_content and self._in_reasoning:
            text = self._accumulated_reasoning + result.reasoning_text
            self._accumulated_reasoning = ""
            return ReasoningResult(normal_text=text)
        return result

    def _take_withheld(self) -> str:
        text = "".join(self._withheld)
        self._withheld.clear()
        return text


def _parser_for(tools: list[Tool]) -> ToolCallParser:
    return LONGCAT.parser([tool.model_dump() for tool in tools])


def _streamed(events: Iterable[Event]) -> StreamingParseResult:
    content: list[str] = []
    calls: list[ToolCallItem] = []
    for event in events:
        match event:
            case ContentDelta(piece):
                content.append(piece)
            case ToolCallStart(index, name):
                calls.append(ToolCallItem(tool_index=index, name=name, parameters=""))
            case ArgumentsDelta(index, piece):
                calls.append(ToolCallItem(tool_index=index, parameters=piece))
    return StreamingParseResult(normal_text="".join(content), calls=calls)


def _split(events: Iterable[Event]) -> ReasoningResult:
    reasoning: list[str] = []
    content: list[str] = []
    for event in events:
        match event:
            case ReasoningDelta(piece):
                reasoning.append(piece)
            case ContentDelta(piece):
                content.append(piece)
    return ReasoningResult(normal_text="".join(content), reasoning_text="".join(reasoning))
