"""From the engine's text to one OpenAI choice: parsing, call ids, finish reason.

Streamed or whole, the same path.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from serval.engine.protocol import GenerationDelta, TokenLogprob
from serval.telemetry.record import RequestRecord
from serval.tools.events import ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.tools.parser import ToolCallParser
from serval.wire.chat_response import AnsweredCall, AnsweredChoice, ChunkEncoder, FinishReason


class ChoiceAssembler:
    """One choice in the making. Feed it every delta of its engine request."""

    def __init__(
        self,
        index: int,
        parser: ToolCallParser,
        *,
        parallel_tool_calls: bool,
        logprobs: bool,
    ) -> None:
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._parser = parser
        self._parallel_tool_calls = parallel_tool_calls
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[AnsweredCall] = []
        self._arguments: list[list[str]] = []
        self._logprobs: list[Mapping[str, Any]] | None = [] if logprobs else None

    def feed(self, delta: GenerationDelta) -> list[Event]:
        """What the delta adds to the answer. With the last delta, `finish_reason` is set."""
        events = self._parser.feed(delta.text) if delta.text else []
        if delta.finish is not None:
            events = [*events, *self._parser.finish(delta.finish)]
        events = [event for event in events if self._take(event)]
        if self._logprobs is not None:
            self._logprobs += logprob_objects(delta.logprobs)
        if delta.finish == "length":
            # A call cut off by the length must not look like one that can be executed.
            self.finish_reason = "length"
        elif delta.finish is not None:
            self.finish_reason = "tool_calls" if self._calls else "stop"
        return events

    @property
    def has_calls(self) -> bool:
        """Whether the model has called a tool."""
        return bool(self._calls)

    def call_id(self, call: int) -> str:
        """The id of the choice's `call`th tool call."""
        return self._calls[call].id

    def answer(self) -> AnsweredChoice:
        """The choice as far as it has come; whole when `finish_reason` is set."""
        return AnsweredChoice(
            index=self.index,
            finish_reason=self.finish_reason or "stop",
            content="".join(self._content),
            reasoning="".join(self._reasoning),
            tool_calls=[
                replace(call, arguments="".join(pieces))
                for call, pieces in zip(self._calls, self._arguments, strict=True)
            ],
            logprobs=self._logprobs,
        )

    def _take(self, event: Event) -> bool:
        """Add the event to the answer; False if it does not belong there."""
        if isinstance(event, ContentDelta):
            self._content.append(event.text)
        elif isinstance(event, ReasoningDelta):
            self._reasoning.append(event.text)
        elif event.index > 0 and not self._parallel_tool_calls:
            return False
        elif isinstance(event, ToolCallStart):
            self._calls.append(AnsweredCall(id=f"call_{secrets.token_hex(12)}", name=event.name))
            self._arguments.append([])
        else:
            self._arguments[event.index].append(event.text)
        return True


def count_tool_calls(answer: AnsweredChoice, record: RequestRecord) -> None:
    """Note how the answer's tool calls came out."""
    last = len(answer.tool_calls) - 1
    for place, call in enumerate(answer.tool_calls):
        if _is_json_object(call.arguments):
            record.tool_calls_complete += 1
        elif place == last and answer.finish_reason == "length":
            record.tool_calls_truncated += 1
        else:
            record.tool_calls_invalid += 1


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


class ChoiceStream:
    """The stream chunks of one choice."""

    def __init__(self, assembler: ChoiceAssembler, encoder: ChunkEncoder, *, logprobs: bool) -> None:
        self._assembler = assembler
        self._encoder = encoder
        self._begun = False
        # Of tokens whose text has not been sent: the parser or the engine may hold text back.
        self._logprobs: list[Mapping[str, Any]] | None = [] if logprobs else None

    def feed(self, delta: GenerationDelta) -> bytes:
        """The chunks the delta gives rise to, joined; the finish chunk with the last delta."""
        index = self._assembler.index
        if self._logprobs is not None:
            self._logprobs += logprob_objects(delta.logprobs)
        events = self._assembler.feed(delta)
        if self._begun and len(events) == 1 and delta.finish is None:
            return self._chunk(events[0])
        chunks = [] if self._begun else [self._encoder.role(index)]
        self._begun = True
        chunks += [self._chunk(event) for event in events]
        if self._assembler.finish_reason is not None:
            rest = self._take_logprobs() or None
            chunks.append(self._encoder.finish(index, self._assembler.finish_reason, logprobs=rest))
        return b"".join(chunks)

    def _take_logprobs(self) -> list[Mapping[str, Any]] | None:
        taken = self._logprobs
        if taken is not None:
            self._logprobs = []
        return taken

    def _chunk(self, event: Event) -> bytes:
        index, encoder = self._assembler.index, self._encoder
        if isinstance(event, ContentDelta):
            return encoder.content(index, event.text, logprobs=self._take_logprobs())
        if isinstance(event, ReasoningDelta):
            return encoder.reasoning(index, event.text)
        if isinstance(event, ToolCallStart):
            call_id = self._assembler.call_id(event.index)
            return encoder.tool_call(index, call=event.index, call_id=call_id, name=event.name)
        return encoder.arguments(index, call=event.index, text=event.text)


def logprob_objects(logprobs: Sequence[TokenLogprob]) -> list[Mapping[str, Any]]:
    """Log-probabilities in OpenAI's form."""
    return [
        {**_logprob_object(logprob), "top_logprobs": [_logprob_object(top) for top in logprob.top]}
        for logprob in logprobs
    ]


def _logprob_object(logprob: TokenLogprob) -> dict[str, Any]:
    # A token that is part of a character decodes to U+FFFD: its bytes are not known here.
    known = "\ufffd" not in logprob.text
    return {
        "token": logprob.text,
        "logprob": logprob.logprob,
        "bytes": list(logprob.text.encode()) if known else None,
    }
