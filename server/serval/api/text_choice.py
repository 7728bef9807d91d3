"""Assembles one choice of a plain completion: text, echoed prompt, log-probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serval.api.logprobs import NamedTokens
from serval.chat.answer_text import WholeCharacters
from serval.engine.protocol import EngineFinish, GenerationDelta, TokenLogprob
from serval.errors import InvalidRequestError
from serval.wire.completion_request import CompletionRequest
from serval.wire.completion_response import TextOffsets, text_choice_object, text_logprobs_object

# Bounds on entries of log-probabilities, of prompts' tokens and of the most likely ones: for a
# prompt, whose entries come in one event of the engine, and for all choices of a call.
MAX_PROMPT_SCORES = 32_768
MAX_SCORES = 131_072


@dataclass
class TextChoice:
    """One choice in progress. An echoed prompt's text and log-probabilities come before the first delta's."""

    index: int
    echo: str
    characters: WholeCharacters
    # Names of the new tokens, and of the prompt's; None if no log-probabilities of them were requested.
    names: NamedTokens | None
    prompt_names: NamedTokens | None
    begun: bool = False
    pieces: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish_reason: EngineFinish | None = None
    offsets: TextOffsets = field(default_factory=lambda: TextOffsets(0))

    def add(self, delta: GenerationDelta) -> tuple[str, Mapping[str, Any] | None]:
        """Add the delta. Return the new text, and its log-probabilities if they were requested."""
        text = self.characters.add(delta.text, delta.token_ids, is_last=delta.finish is not None)
        is_first, self.begun = not self.begun, True
        if is_first:
            text = self.echo + text
        self.pieces.append(text)
        self.finish_reason = delta.finish
        if self.names is None:
            return text, None
        tokens = self.names.of(delta)
        if self.prompt_names is not None:
            if is_first:
                tokens = self.prompt_names.named(delta.prompt_logprobs) + tokens
            if delta.end_logprob is not None:
                # Clients that score texts ask for one new token, and leave out the last entry.
                tokens += self.names.named([delta.end_logprob])
        self.tokens += tokens
        return text, text_logprobs_object(tokens, self.offsets)

    def as_object(self) -> dict[str, Any]:
        """Return the whole choice."""
        logprobs = None if self.names is None else text_logprobs_object(self.tokens, TextOffsets(0))
        text = "".join(self.pieces)
        return text_choice_object(self.index, text, logprobs=logprobs, finish_reason=self.finish_reason)


def check_scores(lengths: Sequence[int], request: CompletionRequest) -> None:
    """Raise `InvalidRequestError` if the log-probabilities of prompts of these `lengths` are too many."""
    entries = 1 + (request.logprobs or 0)
    longest, together = max(lengths) * entries, sum(lengths) * entries * (request.n or 1)
    if longest > MAX_PROMPT_SCORES or together > MAX_SCORES:
        raise InvalidRequestError(
            f"With echo and logprobs {request.logprobs}, a prompt may have {MAX_PROMPT_SCORES // entries}"
            f" tokens, and the prompts of all choices {MAX_SCORES // entries} together; yours have up to"
            f" {max(lengths)}, together {sum(lengths) * (request.n or 1)}. Send fewer or shorter prompts.",
            param="prompt",
        )
