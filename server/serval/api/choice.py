"""Assembles one OpenAI choice from the engine's text: parsing, call ids, finish reason.

Streamed and whole answers take the same path.
"""

import json
import secrets
from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from serval.api.logprobs import NamedTokens, chat_logprobs
from serval.api.reasoning_count import ReasoningCount
from serval.chat.answer_text import MarkerPlaces, WholeCharacters
from serval.chat.own_turns import OwnCall, OwnTurn
from serval.chat.token_bytes import TokenBytes
from serval.engine.protocol import GenerationDelta
from serval.telemetry.record import RequestRecord
from serval.tools.events import ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.tools.parser import ToolCallParser
from serval.wire.chat_response import AnsweredCall, AnsweredChoice, FinishReason


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
        call_id_prefix: str = "call_",
        kept_markers: Collection[str] | None = None,
        reasoning: ReasoningCount | None = None,
    ) -> None:
        """`markers`: control tokens, whose text in ordinary tokens is only text. None: text decides.

        `kept_markers`: the only control tokens that `own_turn` and `turn_ids` may hold. None: there are none.
        `reasoning` counts its tokens.
        """
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._stop_string: str | None = None
        self._call_id_prefix = call_id_prefix
        self._count = reasoning
        self._parser = parser
        self._parallel_tool_calls = parallel_tool_calls
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[AnsweredCall] = []
        self._arguments: list[list[str]] = []
        # The tokens of each delta; None if the answer does not say all that they do.
        self._token_ids: list[list[int] | None] | None = None if kept_markers is None else []
        self._kept_markers = kept_markers or ()
        self._tokens = tokens
        self._characters = WholeCharacters(tokens)
        self._places = None if markers is None else MarkerPlaces(tokens, markers)
        self._names = NamedTokens(tokens, skip_special=False) if logprobs else None
        self._logprobs: list[Mapping[str, Any]] = []
        self._taken_logprobs = 0

    def add(self, delta: GenerationDelta) -> list[Event]:
        """Add the delta, and return its events. The last delta sets `finish_reason`."""
        if self._token_ids is not None:
            self._token_ids.append(delta.token_ids)
        text = self._characters.add(delta.text, delta.token_ids, is_last=delta.finish is not None)
        places = None
        if self._places is not None:
            text, places = self._places.add(text, delta.token_ids)
        events = self._parser.feed(text, places) if text else []
        if delta.finish is not None:
            # A stop string cuts the text as the limit of tokens does, perhaps inside a call.
            self._stop_string = delta.stop_string
            reason = delta.finish if delta.stop_string is None else "stop_string"
            events = [*events, *self._parser.finish(reason)]
        if self._count is not None:
            self._count.add(delta, events)
        events = [event for event in events if self._accept(event)]
        if self._names is not None:
            self._logprobs += chat_logprobs(self._names.of(delta))
        if delta.finish == "length":
            self.finish_reason = "length"
        elif delta.finish is not None:
            self.finish_reason = "tool_calls" if self._calls and not self._is_cut() else "stop"
        return events

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the reasoning so far."""
        return 0 if self._count is None else self._count.tokens

    @property
    def has_calls(self) -> bool:
        """True if the model has called a tool."""
        return bool(self._calls)

    def call_id(self, call: int) -> str:
        """Return the id of the choice's `call`th tool call."""
        return self._calls[call].id

    def take_logprobs(self) -> Sequence[Mapping[str, Any]] | None:
        """Return the log-probabilities that were not taken yet; None if the request does not ask for any.

        Those of tokens whose text the parser or the engine holds back come with the text that follows.
        """
        if self._names is None:
            return None
        taken = self._logprobs[self._taken_logprobs :]
        self._taken_logprobs = len(self._logprobs)
        return taken

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
            stop_string=self._stop_string,
            cut_call=self._parser.cut_call,
        )

    def own_turn(self) -> OwnTurn | None:
        """Return the turn in the model's own tokens, if it is whole, ends with calls, and hid nothing."""
        ids = self.turn_ids() if self.finish_reason == "tool_calls" else None
        if ids is None:
            return None
        answer = self.answer()
        calls = [OwnCall(call.id, call.name, call.arguments) for call in answer.tool_calls]
        return OwnTurn(ids, answer.content, calls)

    def turn_ids(self) -> "array[int] | None":
        """Return the model's own tokens if the choice is a whole turn, and says all that they do."""
        if self.finish_reason in (None, "length") or self._is_cut():
            return None
        if self._token_ids is None or self._reasoning or self._stop_string is not None:
            return None
        ids = array("I")
        for of_delta in self._token_ids:
            if of_delta is None:
                return None
            ids.extend(of_delta)
        # The client never sees another control token: it is no part of the text, and would begin a turn.
        controls = map(self._tokens.control_text, self._tokens.control_ids.intersection(ids))
        if not set(controls) <= set(self._kept_markers):
            return None
        return ids

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
            self._token_ids = None
            return False
        elif isinstance(event, ToolCallStart):
            self._calls.append(
                AnsweredCall(id=f"{self._call_id_prefix}{secrets.token_hex(12)}", name=event.name)
            )
            self._arguments.append([])
        else:
            self._arguments[event.index].append(event.text)
        return True


def note_outcome(assemblers: Sequence[ChoiceAssembler], record: RequestRecord) -> None:
    """Record the finish reason and the tool calls of the choices."""
    for assembler in assemblers:
        if assembler.finish_reason is not None:
            record.finish_reason = assembler.finish_reason
            if assembler.has_calls:
                count_tool_calls(assembler.answer(), record)


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
