"""Shapes of errors and of the inference endpoints' answers, for the OpenAPI document and for tests.

`chat_response` and `completion_response` write the answers as bytes and use none of this.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Finish = Literal["stop", "length", "tool_calls", "function_call"]
Count = Annotated[int, Field(ge=0)]
UnixTime = Annotated[int, Field(ge=0)]


class Answer(BaseModel):
    """Base of answers: they have the described fields and no others."""

    # Most are only described: no validator is built before the first use.
    model_config = ConfigDict(extra="forbid", defer_build=True)


class ErrorDetail(Answer):
    """What was wrong. `param` is the path of the field at fault, such as `messages[0].content`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """Every error, of every status."""

    error: ErrorDetail


class PromptTokensDetails(Answer):
    """Tokens of the prompt that were found in the engine's cache."""

    cached_tokens: Count


class CompletionTokensDetails(Answer):
    """Tokens of the answer that are reasoning."""

    reasoning_tokens: Count


class UsageAnswer(Answer):
    """Tokens as the engine counts them."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CalledFunction(Answer):
    """`arguments` is JSON in a string."""

    name: str
    arguments: str


class CallAnswer(Answer):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class MessageAnswer(Answer):
    """What the model said. `function_call` answers `functions`, the older form of tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: list[CallAnswer] | None = None
    function_call: CalledFunction | None = None


class TopLogprob(Answer):
    """`bytes` is null for a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobAnswer(TopLogprob):
    """A token of the answer and the most likely ones in its place."""

    top_logprobs: list[TopLogprob]


class LogprobsAnswer(Answer):
    """Log-probabilities of the content's tokens."""

    content: list[TokenLogprobAnswer]
    refusal: None


class ChoiceAnswer(Answer):
    """One answer of `n`."""

    index: Count
    message: MessageAnswer
    logprobs: LogprobsAnswer | None
    finish_reason: Finish


class ChatCompletion(Answer):
    """A whole answer. `service_tier` is there if the request named one."""

    id: Annotated[str, Field(pattern="^chatcmpl-")]
    object: Literal["chat.completion"]
    created: UnixTime
    model: str
    choices: list[ChoiceAnswer]
    usage: UsageAnswer
    system_fingerprint: None
    service_tier: Literal["priority", "default", "flex"] | None = None


class FunctionDelta(Answer):
    """The name comes first, then the arguments in pieces."""

    name: str | None = None
    arguments: str | None = None


class CallDelta(Answer):
    """A piece of the call number `index`; its first one has `id` and `type`."""

    index: Count
    function: FunctionDelta
    id: str | None = None
    type: Literal["function"] | None = None


class MessageDelta(Answer):
    """What is new; the first delta of a choice has the role."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None
    function_call: FunctionDelta | None = None


class ChoiceDelta(Answer):
    """A piece of one choice; `finish_reason` is null but in the last one."""

    index: Count
    delta: MessageDelta
    logprobs: LogprobsAnswer | None
    finish_reason: Finish | None


class ChatCompletionChunk(Answer):
    """One event of a streamed answer. `usage` is in the last one, if it was asked for."""

    id: Annotated[str, Field(pattern="^chatcmpl-")]
    object: Literal["chat.completion.chunk"]
    created: UnixTime
    model: str
    choices: list[ChoiceDelta]
    system_fingerprint: None
    usage: UsageAnswer | None = None
    service_tier: Literal["priority", "default", "flex"] | None = None


class TextLogprobs(Answer):
    """Lists as long as the text has tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Answer):
    """One text; in a stream, a piece of it."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class TextCompletion(Answer):
    """A whole answer, or one event of a streamed one."""

    id: Annotated[str, Field(pattern="^cmpl-")]
    object: Literal["text_completion"]
    created: UnixTime
    model: str
    choices: list[TextChoice]
    system_fingerprint: None
    usage: UsageAnswer | None = None
