"""The shapes of the answers, for the OpenAPI document and for tests.

Answers are written as bytes by `chat_response` and `completion_response`; nothing of this is on their way.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Finish = Literal["stop", "length", "tool_calls", "function_call"]
Count = Annotated[int, Meta(ge=0)]
UnixTime = Annotated[int, Meta(ge=0)]


class ErrorDetail(Struct, forbid_unknown_fields=True):
    """What was wrong. `param` is the path of the field at fault, such as `messages[0].content`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Struct, forbid_unknown_fields=True):
    """Every error, of every status."""

    error: ErrorDetail


class PromptTokensDetails(Struct, forbid_unknown_fields=True):
    """Tokens of the prompt that were found in the engine's cache."""

    cached_tokens: Count


class CompletionTokensDetails(Struct, forbid_unknown_fields=True):
    """Tokens of the answer that are reasoning."""

    reasoning_tokens: Count


class UsageAnswer(Struct, forbid_unknown_fields=True):
    """Tokens as the engine counts them."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CalledFunction(Struct, forbid_unknown_fields=True):
    """`arguments` is JSON in a string."""

    name: str
    arguments: str


class CallAnswer(Struct, forbid_unknown_fields=True):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class MessageAnswer(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What the model said. `function_call` answers `functions`, the older form of tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: list[CallAnswer] | None = None
    function_call: CalledFunction | None = None


class TopLogprob(Struct, forbid_unknown_fields=True):
    """`bytes` is null for a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobAnswer(TopLogprob, forbid_unknown_fields=True):
    """A token of the answer and the most likely ones in its place."""

    top_logprobs: list[TopLogprob]


class LogprobsAnswer(Struct, forbid_unknown_fields=True):
    """Log-probabilities of the content's tokens."""

    content: list[TokenLogprobAnswer]
    refusal: None


class ChoiceAnswer(Struct, forbid_unknown_fields=True):
    """One answer of `n`."""

    index: Count
    message: MessageAnswer
    logprobs: LogprobsAnswer | None
    finish_reason: Finish


class ChatCompletion(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A whole answer. `service_tier` is there if the request named one."""

    id: Annotated[str, Meta(pattern="^chatcmpl-")]
    object: Literal["chat.completion"]
    created: UnixTime
    model: str
    choices: list[ChoiceAnswer]
    usage: UsageAnswer
    system_fingerprint: None
    service_tier: Literal["priority", "default", "flex"] | None = None


class FunctionDelta(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The name comes first, then the arguments in pieces."""

    name: str | None = None
    arguments: str | None = None


class CallDelta(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A piece of the call number `index`; its first one has `id` and `type`."""

    index: Count
    function: FunctionDelta
    id: str | None = None
    type: Literal["function"] | None = None


class MessageDelta(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is new; the first delta of a choice has the role."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None
    function_call: FunctionDelta | None = None


class ChoiceDelta(Struct, forbid_unknown_fields=True):
    """A piece of one choice; `finish_reason` is null but in the last one."""

    index: Count
    delta: MessageDelta
    logprobs: LogprobsAnswer | None
    finish_reason: Finish | None


class ChatCompletionChunk(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One event of a streamed answer. `usage` is in the last one, if it was asked for."""

    id: Annotated[str, Meta(pattern="^chatcmpl-")]
    object: Literal["chat.completion.chunk"]
    created: UnixTime
    model: str
    choices: list[ChoiceDelta]
    system_fingerprint: None
    usage: UsageAnswer | None = None
    service_tier: Literal["priority", "default", "flex"] | None = None


class TextLogprobs(Struct, forbid_unknown_fields=True):
    """Lists as long as the text has tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Struct, forbid_unknown_fields=True):
    """One text; in a stream, a piece of it."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class TextCompletion(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A whole answer, or one event of a streamed one."""

    id: Annotated[str, Meta(pattern="^cmpl-")]
    object: Literal["text_completion"]
    created: UnixTime
    model: str
    choices: list[TextChoice]
    system_fingerprint: None
    usage: UsageAnswer | None = None


class ModelObject(Struct, forbid_unknown_fields=True):
    """A model; `max_model_len` counts the tokens of prompt and answer together."""

    id: str
    object: Literal["model"]
    created: UnixTime
    owned_by: str
    max_model_len: int


class ModelList(Struct, forbid_unknown_fields=True):
    """The models that the key may use."""

    object: Literal["list"]
    data: list[ModelObject]


class Health(Struct, forbid_unknown_fields=True):
    """`ok` or `ready`."""

    status: Literal["ok", "ready"]


class Document(Struct):
    """An OpenAPI document."""

    openapi: str
    paths: dict[str, Any]
