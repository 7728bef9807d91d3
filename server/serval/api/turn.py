"""A conversation to answer, in the one form that all its APIs share, and the encoding of its answer.

Chat Completions, Responses and Messages differ in how they write a request and an answer. Everything between
(`serval.api.answering`) knows neither.
"""

from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from serval.api.choice import ChoiceAssembler
from serval.api.shortening import Shorten
from serval.caller.priority import Priority
from serval.engine.protocol import GenerationDelta
from serval.errors import ApiError
from serval.scheduling.body_budget import HeldBody
from serval.wire.chat_request import ChatRequest, Tool
from serval.wire.chat_response import AnsweredChoice, Usage


class AnswerStream(Protocol):
    """Encodes one streamed answer as server-sent events."""

    def add(self, choice: int, delta: GenerationDelta) -> bytes:
        """Add a delta of the choice, and return the events it completes, joined; none are b""."""

    def end(self, usage: Usage) -> bytes:
        """Return the last events. Called once all choices have finished."""

    def error(self, error: ApiError) -> bytes:
        """Return the event of an error that ends the stream, possibly before anything was added."""


class AnswerForm(Protocol):
    """Encodes an answer in the form of one API. `created` is Unix time."""

    def body(self, answer_id: str, created: int, choices: Sequence[AnsweredChoice], usage: Usage) -> bytes:
        """Encode a whole answer as JSON."""

    def stream(self, answer_id: str, created: int, assemblers: Sequence[ChoiceAssembler]) -> AnswerStream:
        """Return the encoder of a streamed answer, one assembler for each choice."""


# Does the work on a request of so many bytes when it is its turn: `serval.api.preparation.in_turn`.
InTurn = Callable[[int, Callable[[], None]], Awaitable[None]]

# Adds what is stored elsewhere to the request's messages, and its size to the body before reading it.
Complete = Callable[[HeldBody, InTurn], Awaitable[None]]

# Stores a finished answer, given its id, its choices and its usage.
Keep = Callable[[str, Sequence[AnsweredChoice], Usage], Awaitable[None]]
# Seals a finished answer, given its id, the prompt's tokens and the choice, before it is stored.
Seal = Callable[[str, "array[int]", ChoiceAssembler], Awaitable[None]]


class Turn(Struct, frozen=True):
    """A checked request of any API."""

    # The conversation, its tools and options, as Chat Completions has them.
    request: ChatRequest
    priority: Priority
    form: AnswerForm
    # Prefixes of the answer's id, which the engine's requests share, and of its tool calls' ids.
    id_prefix: str = "chatcmpl-"
    call_id_prefix: str = "call_"
    # Tools that the model may call but that the conversation declares itself, after its beginning.
    deferred_tools: Sequence[Tool] = ()
    # A limit of the answer's tokens beyond the room left is cut to it, not refused.
    cut_to_room: bool = False
    # This API's names of fields, by the names in Chat Completions: for errors found after decoding.
    fields: Mapping[str, str] = {}
    # The request keeps its whole body until it is complete.
    complete: Complete | None = None
    # Tokens of the conversation up to the end of the first turn of the model in the request's messages.
    beginning: "array[int] | None" = None
    # Renders a conversation that is too long from a part of it.
    shorten: Shorten | None = None
    # Called before the client learns of the answer's end, and before `keep`.
    seal: Seal | None = None
    # Called before the client learns of the answer's end. It holds so many bytes until then.
    keep: Keep | None = None
    stored_bytes: int = 0
