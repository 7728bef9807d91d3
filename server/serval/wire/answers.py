"""Shapes of errors and of the inference endpoints' answers, for the OpenAPI document and for tests.

`chat_response` and `completion_response` write the answers as bytes and use none of this.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Finish = Literal["stop", "length", "tool_calls", "function_call"]
Count = Annotated[int, Field(ge=0)]
UnixTime = Annotated[int, Field(ge=0)]


class Answer(BaseModel):
    """Base of answers; they have no fields but the described ones."""

    # Most serve only as descriptions, so no validator is built before its first use.
    model_config = ConfigDict(extra="forbid", defer_build=True)


class ErrorDetail(Answer):
    """Description of an error. `param` is the path of the field at fault, such as `messages[0].content`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """Error response of any status."""

    error: ErrorDetail


class PromptTokensDetails(Answer):
    """Prompt tokens found in the engine's cache."""

    cached_tokens: Count


class CompletionTokensDetails(Answer):
    """Completion tokens that are reasoning."""

    reasoning_tokens: Count


class UsageAnswer(Answer):
    """Token counts of the engine."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CalledFunction(Answer):
    """Called function; `arguments` is a string of JSON."""

    name: str
    arguments: str


class CallAnswer(Answer):
    """Tool call of the model."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class MessageAnswer(Answer):
    """Message of the model. `function_call` answers `functions`, the deprecated form of tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: list[CallAnswer] | None = None
    function_call: CalledFunction | None = None


class TopLogprob(Answer):
    """A likely token; a part of a character has a name of the form `bytes:\\xe4\\xbd`."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobAnswer(TopLogprob):
    """A token of the answer, and the most likely tokens at its position."""

    top_logprobs: list[TopLogprob]


class LogprobsAnswer(Answer):
    """Log-probabilities of the content's tokens."""

    content: list[TokenLogprobAnswer]
    refusal: None


class ChoiceAnswer(Answer):
    """One of the `n` choices."""

    index: Count
    message: MessageAnswer
    logprobs: LogprobsAnswer | None
    finish_reason: Finish


class ChatCompletion(Answer):
    """Whole answer. `service_tier` is present if the request named one."""

    id: Annotated[str, Field(pattern="^chatcmpl-")]
    object: Literal["chat.completion"]
    created: UnixTime
    model: str
    choices: list[ChoiceAnswer]
    usage: UsageAnswer
    system_fingerprint: None
    service_tier: Literal["priority", "default", "flex"] | None = None


class FunctionDelta(Answer):
    """Part of a function call: first the name, then the arguments in pieces."""

    name: str | None = None
    arguments: str | None = None


class CallDelta(Answer):
    """Part of the tool call number `index`; the first part has `id` and `type`."""

    index: Count
    function: FunctionDelta
    id: str | None = None
    type: Literal["function"] | None = None


class MessageDelta(Answer):
    """New parts of a message; the first delta of a choice has the role."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None
    function_call: FunctionDelta | None = None


class ChoiceDelta(Answer):
    """Part of one choice; `finish_reason` is null except in the last part."""

    index: Count
    delta: MessageDelta
    logprobs: LogprobsAnswer | None
    finish_reason: Finish | None


class ChatCompletionChunk(Answer):
    """Event of a streamed answer. The last one has `usage`, if it was requested."""

    id: Annotated[str, Field(pattern="^chatcmpl-")]
    object: Literal["chat.completion.chunk"]
    created: UnixTime
    model: str
    choices: list[ChoiceDelta]
    system_fingerprint: None
    usage: UsageAnswer | None = None
    service_tier: Literal["priority", "default", "flex"] | None = None


class TextLogprobs(Answer):
    """Log-probabilities of a text; each list has an entry for each token, null for the first of a prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Answer):
    """One text; in a stream, a part of it."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class TextCompletion(Answer):
    """Whole answer, or one event of a streamed answer."""

    id: Annotated[str, Field(pattern="^cmpl-")]
    object: Literal["text_completion"]
    created: UnixTime
    model: str
    choices: list[TextChoice]
    system_fingerprint: None
    usage: UsageAnswer | None = None
