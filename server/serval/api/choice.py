"""Assembles one OpenAI choice from the engine's text: parsing, call ids, finish reason.

Streamed and whole answers take the same path.
"""

import json
import secrets
from collections.abc import Collection, Mapping
from typing import Any

from msgspec.structs import replace

from serval.api.logprobs import NamedTokens, chat_logprobs
from serval.chat.answer_text import MarkerPlaces, WholeCharacters
from serval.chat.token_bytes import TokenBytes
from serval.engine.protocol import GenerationDelta
from serval.telemetry.record import RequestRecord
from serval.tools.events import ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.tools.parser import ToolCallParser
from serval.wire.chat_response import AnsweredCall, AnsweredChoice, ChunkEncoder, FinishReason


class ChoiceAssembler:
    """One choice in progress. `add` every delta of its engine request."""

    def __init__(
        self,
        index: int,
        parser: ToolCallParser,
        tokens: TokenBytes,
        *,
        markers: Collection[str] | None,
        parallel_tool_calls: bool,
        logprobs: bool,
    ) -> None:
        """`markers`: control tokens, whose text in ordinary tokens is only text. None: text decides."""
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._parser = parser
        self._parallel_tool_calls = parallel_tool_calls
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[AnsweredCall] = []
        self._arguments: list[list[str]] = []
        self._characters = WholeCharacters(tokens)
        self._places = None if markers is None else MarkerPlaces(tokens, markers)
        self._names = NamedTokens(tokens, skip_special=False) if logprobs else None
        self._logprobs: list[Mapping[str, Any]] = []
        # Log-probabilities of the last delta.
        self.new_logprobs: list[Mapping[str, Any]] = []

    def add(self, delta: GenerationDelta) -> list[Event]:
        """Add the delta, and return its events. The last delta sets `finish_reason`."""
        text = self._characters.add(delta.text, delta.token_ids, is_last=delta.finish is not None)
        places = None
        if self._places is not None:
            text, places = self._places.add(text, delta.token_ids)
        events = self._parser.feed(text, places) if text else []
        if delta.finish is not None:
            # A stop string cuts the text as the limit of tokens does, perhaps inside a call.
            reason = delta.finish if delta.stop_string is None else "stop_string"
            events = [*events, *self._parser.finish(reason)]
        events = [event for event in events if self._accept(event)]
        if self._names is not None:
            self.new_logprobs = chat_logprobs(self._names.of(delta))
            self._logprobs += self.new_logprobs
        if delta.finish == "length":
            self.finish_reason = "length"
        elif delta.finish is not None:
            self.finish_reason = "tool_calls" if self._calls and not self._is_cut() else "stop"
        return events

    @property
    def has_calls(self) -> bool:
        """True if the model has called a tool."""
        return bool(self._calls)

    def call_id(self, call: int) -> str:
        """Return the id of the choice's `call`th tool call."""
        return self._calls[call].id

    def answer(self) -> AnsweredChoice:
        """Return the choice so far, which is whole once `finish_reason` is set."""
        return AnsweredChoice(
            index=self.index,
            finish_reason=self.finish_reason or "stop",
            content="".join(self._content),
            reasoning="".join(self._reasoning),
            tool_calls=[
                replace(call, arguments="".join(pieces))
                for call, pieces in zip(self._calls, self._arguments, strict=True)
            ],
            logprobs=None if self._names is None else self._logprobs,
        )

    def _is_cut(self) -> bool:
        """Return True if the last call was cut: the choice must not look as if it could be executed."""
        # Without parallel calls, the one that was cut may be a later one that is dropped.
        return self._parser.cut_call and (
            self._parallel_tool_calls or not _is_json_object("".join(self._arguments[0]))
        )

    def _accept(self, event: Event) -> bool:
        """Add the event to the answer. Return False for an event that is dropped."""
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
    """Record the outcomes of the answer's tool calls."""
    last = len(answer.tool_calls) - 1
    for place, call in enumerate(answer.tool_calls):
        if _is_json_object(call.arguments):
            record.tool_calls_complete += 1
        elif place == last and answer.finish_reason != "tool_calls":
            record.tool_calls_truncated += 1
        else:
            record.tool_calls_invalid += 1


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


class ChoiceStream:
    """Encodes one choice as stream chunks."""

    def __init__(self, assembler: ChoiceAssembler, encoder: ChunkEncoder, *, logprobs: bool) -> None:
        self._assembler = assembler
        self._encoder = encoder
        self._begun = False
        # Log-probabilities of tokens whose text the parser or the engine still holds back.
        self._logprobs: list[Mapping[str, Any]] | None = [] if logprobs else None

    def add(self, delta: GenerationDelta) -> bytes:
        """Add the delta, and return its chunks, joined. The last delta brings the finish chunk."""
        index = self._assembler.index
        events = self._assembler.add(delta)
        if self._logprobs is not None:
            self._logprobs += self._assembler.new_logprobs
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
